"""Tests of `mafunzo.entrypoints.openai.routes`: the dialect's routes in this process, over a worker of this process too."""

import asyncio
import logging
from typing import Any

import pytest
from aiohttp import web

from mafunzo.entities.adapter import AdapterStatus
from mafunzo.entrypoints.http.limits import Limits
from mafunzo.entrypoints.openai.routes import error_response
from mafunzo.errors import (
    InvalidParameter,
    MafunzoError,
    NotFound,
    RateLimitExceeded,
    Unauthorized,
    Unavailable,
    WorkerFailed,
)
from mafunzo.protocol.paths import unknown_address
from tests.unit.entrypoints.http.bench import CHAT, Bench, Clients


def run(work: Any, limits: Limits = Limits()) -> None:  # noqa: B008
    Bench(limits).run(work)


def error(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


def test_a_key_lists_and_shows_the_endpoints_that_it_opens() -> None:
    async def work(clients: Clients) -> None:
        shown = {"id": "chat", "object": "model", "created": 0, "owned_by": "mafunzo"}
        assert (await clients.http.get("/v1/models")).json() == {"object": "list", "data": [shown]}
        assert (await clients.http.get("/v1/models/chat")).json() == shown
        status, message = error(await clients.http.get("/v1/models/other"))
        assert (status, "The model 'other' doesn't exist, or this key doesn't open it" in message) == (404, True)

    run(work)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        pytest.param("", "The request has no key", id="no key"),
        pytest.param("Basic abc", "The request has no key", id="another scheme"),
        pytest.param("Bearer wrong", "The key is wrong", id="a wrong key"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("GET", "/v1/models/chat"), ("POST", CHAT)])
def test_without_the_right_key_nothing_is_answered(method: str, path: str, header: str, text: str) -> None:
    async def work(clients: Clients) -> None:
        answer = await clients.http.request(method, path, headers={"authorization": header}, content=b"{")
        status, message = error(answer)
        assert (status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert text in message

    run(work)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        pytest.param(b"{", 400, "The request's body isn't JSON.", id="no JSON"),
        pytest.param(b"[]", 400, "The request names no model: 'model' is the name of the endpoint.", id="no object"),
        pytest.param(b'{"model": 1}', 400, "The request names no model", id="a model that is no text"),
        pytest.param(b'{"model": "other"}', 404, "The model 'other' doesn't exist", id="unknown model"),
        pytest.param(b'{"x": "%s"}' % (b"y" * 100), 400, "The request's body is larger than 64 bytes.", id="too large"),
    ],
)
def test_a_request_that_reaches_no_worker_says_why(body: bytes, status: int, text: str) -> None:
    async def work(clients: Clients) -> None:
        found, message = error(await clients.http.post(CHAT, content=body))
        assert found == status
        assert text in message
        assert "mafunzo_requests_total{" not in await clients.metrics()

    run(work, Limits(chat_body_bytes=64))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param(b'{"model": "\\ud83d"}', "model", id="the model's name"),
        pytest.param(b'{"model": "chat", "prompt": "\\ud83d"}', "prompt", id="a prompt"),
        pytest.param(b'{"model": "chat", "\\ud83d": 1}', "\\ud83d", id="a field's name"),
        pytest.param(b'{"model": 1}', "model", id="no name at all"),
    ],
)
def test_what_no_text_can_hold_is_refused_by_name(body: bytes, param: str) -> None:
    async def work(clients: Clients) -> None:
        answer = await clients.http.post(CHAT, content=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)

    run(work)


def test_a_deployment_that_is_named_must_be_there() -> None:
    async def work(clients: Clients) -> None:
        body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
        answer = await clients.http.post(CHAT, json=body, headers={"mafunzo-deployment": "blue"})
        assert answer.json()["choices"][0]["message"]["content"] == "hello"
        status, message = error(await clients.http.post(CHAT, json=body, headers={"mafunzo-deployment": "red"}))
        assert status == 404
        assert "red" in message

    run(work)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_what_is_not_there_is_refused_in_the_dialects_words(method: str) -> None:
    async def work(clients: Clients) -> None:
        answer = await clients.http.request(method, "/v1/embeddings")
        assert answer.status_code == 404
        assert answer.json()["error"] == {
            "message": unknown_address(method, "embeddings"),
            "type": "invalid_request_error",
            "param": None,
            "code": "unknown_url",
        }

    run(work)


@pytest.mark.parametrize(
    ("given", "status", "headers"),
    [
        pytest.param(InvalidParameter("Bad."), 400, {}, id="bad request"),
        pytest.param(NotFound("None."), 404, {}, id="not found"),
        pytest.param(Unauthorized("No."), 401, {"www-authenticate": "Bearer"}, id="no key"),
        pytest.param(RateLimitExceeded("Many."), 429, {"retry-after": "7"}, id="too many"),
        pytest.param(Unavailable("Down."), 503, {"retry-after": "7"}, id="later"),
        pytest.param(WorkerFailed("Broke."), 502, {}, id="broken"),
    ],
)
def test_an_error_has_its_status_and_says_when_to_ask_again(
    given: MafunzoError, status: int, headers: dict[str, str]
) -> None:
    response = error_response(given, Limits(retry_after_s=7))
    assert response.status_code == status
    assert {name: response.headers[name] for name in headers} == headers
    assert ("retry-after" in response.headers) == ("retry-after" in headers)


def test_a_stream_is_passed_on_as_it_comes_and_counted_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in (b"data: 1\n\n", b"data: [DONE]\n\n"):
            await response.write(piece)
            await asyncio.sleep(0)
        return response

    monkeypatch.setattr("tests.unit.entrypoints.http.bench.answer", stream)

    async def work(clients: Clients) -> None:
        answer = await clients.chat("hello")
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["mafunzo-deployment"] == "blue"
        assert answer.content == b"data: 1\n\ndata: [DONE]\n\n"
        found = await clients.metrics()
        assert 'mafunzo_requests_total{deployment="blue",endpoint="chat",status="200"} 1.0' in found
        assert 'mafunzo_requests_in_flight{deployment="blue",endpoint="chat"} 0.0' in found

    run(work)


def test_the_workers_refusal_names_its_deployment() -> None:
    async def work(clients: Clients) -> None:
        for said, status in (("refuse", 400), ("break off", 502)):
            answer = await clients.chat(said)
            assert (answer.status_code, answer.headers["mafunzo-deployment"]) == (status, "blue")

    run(work)


def test_a_stream_that_a_time_out_cuts_off_is_logged_and_counted_as_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await asyncio.Event().wait()
        return response

    monkeypatch.setattr("tests.unit.entrypoints.http.bench.answer", stall)
    monkeypatch.setattr("tests.unit.entrypoints.http.bench.REQUEST_TIMEOUT_S", 0.2)
    caplog.set_level(logging.INFO, "mafunzo.control.serving.router")

    async def work(clients: Clients) -> None:
        answer = await clients.chat("hello")
        assert b"wrote nothing for 0.2 s" in answer.content
        metrics = await clients.metrics()
        assert 'mafunzo_requests_total{deployment="blue",endpoint="chat",status="504"} 1.0' in metrics
        assert 'status="200"' not in metrics

    run(work)
    assert "POST /v1/chat/completions chat/blue 504" in caplog.text


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_has_the_request_s_id_which_the_log_has_too(
    is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def work(clients: Clients) -> None:
        body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "stream": is_stream}
        own = await clients.http.post(CHAT, json=body, headers={"x-request-id": "mine-1"})
        assert own.headers["x-request-id"] == "mine-1"
        new = await clients.http.post(CHAT, json=body)
        for request_id in ("mine-1", new.headers["x-request-id"]):
            lines = [record.getMessage() for record in caplog.records if f"request {request_id}" in record.getMessage()]
            assert len(lines) == 1
            assert lines[0].startswith("POST /v1/chat/completions chat/blue 200")

    run(work)


def test_an_adapter_that_is_loaded_again_stays_among_the_models() -> None:
    bench = Bench()
    bench.adapters = dict.fromkeys(("new", "again"), AdapterStatus.LOADING)
    bench.once_live = {"again"}

    async def work(clients: Clients) -> None:
        listed = (await clients.http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["chat", "chat:again"]
        assert (await clients.http.get("/v1/models/chat:new")).status_code == 404

    bench.run(work)


def test_adapters_that_are_live_are_models_of_their_own_beside_their_endpoint() -> None:
    bench = Bench()
    bench.adapters = {"red": AdapterStatus.LIVE, "blue": AdapterStatus.LIVE, "bad": AdapterStatus.REFUSED}

    async def work(clients: Clients) -> None:
        listed = (await clients.http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["chat", "chat:blue", "chat:red"]
        assert (await clients.http.get("/v1/models/chat:red")).json() == listed[2]
        assert error(await clients.http.get("/v1/models/chat:bad"))[0] == 404
        body = {"model": "chat:red", "messages": [{"role": "user", "content": "hello"}]}
        answer = await clients.http.post(CHAT, json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "hello"
        metrics = await clients.metrics()
        labels = 'adapter="red",deployment="blue",endpoint="chat",status="200"'
        assert f"mafunzo_adapter_requests_total{{{labels}}} 1.0" in metrics
        assert 'mafunzo_requests_total{deployment="blue",endpoint="chat",status="200"} 1.0' in metrics

    bench.run(work)


@pytest.mark.parametrize(
    ("model", "status", "text"),
    [
        pytest.param("chat:none", 404, "endpoint 'chat' has no adapter 'none'", id="unknown"),
        pytest.param("chat:", 404, "endpoint 'chat' has no adapter ''", id="no name"),
        pytest.param("chat:bad", 503, "The adapter 'chat:bad' was refused.", id="refused"),
        pytest.param("other:red", 404, "The model 'other' doesn't exist", id="an adapter of an unknown endpoint"),
    ],
)
def test_an_adapter_that_cannot_answer_is_told(model: str, status: int, text: str) -> None:
    bench = Bench()
    bench.adapters = {"bad": AdapterStatus.REFUSED}

    async def work(clients: Clients) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        found, message = error(await clients.http.post(CHAT, json=body))
        assert (found, text in message) == (status, True), message

    bench.run(work)
