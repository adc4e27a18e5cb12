"""Tests of `mafunzo.entrypoints.openai.responses`: its routes in this process, over a worker of this process too."""

import json
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from fastapi.routing import APIRoute

from mafunzo.control.store.home import Home
from mafunzo.control.store.response import files
from mafunzo.entities.rate_limit import GENERAL
from mafunzo.entrypoints.http.limits import Limits
from mafunzo.entrypoints.openai import responses
from mafunzo.entrypoints.openai import routes as openai
from mafunzo.errors import StorageFull
from mafunzo.protocol.stream import END_OF_STREAM, event
from tests.unit.entrypoints.http.bench import Bench, Clients

PATH = "/v1/responses"
Work = Callable[[Clients], Coroutine[Any, Any, None]]
Run = Callable[..., None]


async def worker(request: web.Request) -> web.StreamResponse:
    """Answers with the number of messages and the last one; `refuse`, `cut` and `break off` are what it does for those words."""
    body = await request.json()
    said = body["messages"][-1]["content"]
    if said == "refuse":
        error = {"message": "messages: no.", "type": "invalid_request_error", "param": "messages", "code": None}
        return web.json_response({"error": error}, status=400)
    reply, reason = f"{len(body['messages'])} {said}", "length" if said == "cut" else "stop"
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": reason}
        return web.json_response({"choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": piece}, None) for piece in reply.partition(" ")]
    for delta, finish_reason in [*deltas, ({}, reason)]:
        await response.write(event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}))
        if said == "break off" and delta.get("content"):
            await response.write(event({"error": {"message": "broke", "type": "server_error", "code": "failed"}}))
            return response
        if said == "stop short" and delta.get("content"):
            return response
    await response.write(event({"choices": [], "usage": usage}) + END_OF_STREAM)
    return response


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def run(home: Home, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Do work with clients of a server whose responses are stored in `home`."""
    monkeypatch.setattr("tests.unit.entrypoints.http.bench.answer", worker)
    return lambda work, limits=Limits(): Bench(limits, home).run(work)  # noqa: B008


async def create(clients: Clients, said: str = "Hi", **more: Any) -> Any:
    answer = await clients.http.post(PATH, json={"model": "chat", "input": said, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]


def error(answer: httpx.Response) -> tuple[int, str | None, str | None, str]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["param"], body["message"]


def test_a_response_is_stored_read_again_and_deleted(run: Run, home: Home) -> None:
    async def work(clients: Clients) -> None:
        made = await create(clients, metadata={"topic": "greeting"})
        assert made["output"][0]["content"][0]["text"] == "1 Hi"
        assert (made["status"], made["usage"]["total_tokens"], made["metadata"]) == (
            "completed",
            5,
            {"topic": "greeting"},
        )
        address = f"{PATH}/{made['id']}"
        assert (await clients.http.get(address)).json() == made
        items = (await clients.http.get(f"{address}/input_items")).json()
        assert [item["content"][0]["text"] for item in items["data"]] == ["Hi"]
        deleted = (await clients.http.delete(address)).json()
        assert deleted == {"id": made["id"], "object": "response", "deleted": True}
        for answer in (await clients.http.get(address), await clients.http.delete(address)):
            assert error(answer)[:2] == (404, "response_not_found")
        assert list(files(home)) == []

    run(work)


def test_a_deletion_is_written_into_the_audit_log_however_it_ends(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.entrypoints.http.bench.answer", worker)
    bench, ids = Bench(home=home), []

    async def work(clients: Clients) -> None:
        ids.append((await create(clients))["id"])
        address = f"{PATH}/{ids[0]}"
        assert (await clients.http.get(address)).status_code == 200
        wrong = {"authorization": "Bearer wrong"}
        assert (await clients.http.delete(address, headers=wrong)).status_code == 401
        assert (await clients.http.delete(address)).status_code == 200

    bench.run(work)
    about = {"response_id": ids[0]}
    assert [(entry.what, entry.ids, entry.status) for entry in bench.audited] == [
        ("delete_response", about, 401),
        ("delete_response", about, 200),
    ]


def test_every_route_that_changes_what_is_stored_is_audited() -> None:
    routes = [route for route in (*responses.router.routes, *openai.router.routes) if isinstance(route, APIRoute)]
    changing = {route.name for route in routes if route.methods & {"DELETE", "PATCH", "PUT"}}
    assert changing - {"unknown"} == responses.CHANGES


def test_what_is_not_to_be_stored_is_not(run: Run, home: Home) -> None:
    async def work(clients: Clients) -> None:
        made = await create(clients, store=False)
        assert made["store"] is False
        assert (await clients.http.get(f"{PATH}/{made['id']}")).status_code == 404

    run(work)
    assert list(files(home)) == []


def test_a_response_goes_on_with_the_one_before(run: Run) -> None:
    async def work(clients: Clients) -> None:
        first = await create(clients, instructions="Be brief.")
        assert first["output"][0]["content"][0]["text"] == "2 Hi"
        second = await create(clients, "More", previous_response_id=first["id"])
        assert second["output"][0]["content"][0]["text"] == "3 More", "instructions aren't carried over"
        third = await create(clients, "End", previous_response_id=second["id"])
        assert third["output"][0]["content"][0]["text"] == "5 End"
        unknown = {"model": "chat", "input": "Hi", "previous_response_id": "resp_1"}
        told = error(await clients.http.post(PATH, json=unknown))
        assert told[:3] == (400, "previous_response_not_found", "previous_response_id")

    run(work)


def test_a_stream_has_the_events_of_a_response_which_is_stored_at_its_end(run: Run) -> None:
    async def work(clients: Clients) -> None:
        answer = await clients.http.post(PATH, json={"model": "chat", "input": "Hi", "stream": True})
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["mafunzo-deployment"] == "blue"
        told = events(answer)
        names = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
        assert names == [one["type"] for one in told]
        assert "".join(one["delta"] for one in told if one["type"].endswith("text.delta")) == "1 Hi"
        final = told[-1]["response"]
        assert (told[-1]["type"], final["usage"]["input_tokens"]) == ("response.completed", 3)
        assert (await clients.http.get(f"{PATH}/{final['id']}")).json() == final

    run(work)


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_that_was_cut_is_incomplete(is_stream: bool, run: Run) -> None:
    async def work(clients: Clients) -> None:
        answer = await clients.http.post(PATH, json={"model": "chat", "input": "cut", "stream": is_stream})
        response = events(answer)[-1]["response"] if is_stream else answer.json()
        assert (response["status"], response["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")

    run(work)


@pytest.mark.parametrize(
    ("said", "text", "status"),
    [("break off", "broke", 500), ("stop short", "ended before it was whole", 502)],
)
def test_a_stream_that_breaks_off_fails_and_is_not_stored(
    said: str, text: str, status: int, run: Run, home: Home
) -> None:
    async def work(clients: Clients) -> None:
        told = events(await clients.http.post(PATH, json={"model": "chat", "input": said, "stream": True}))
        assert told[-1]["type"] == "response.failed"
        assert told[-1]["response"]["error"]["code"] == "server_error"
        assert text in told[-1]["response"]["error"]["message"]
        assert f'status="{status}"' in await clients.metrics()

    run(work)
    assert list(files(home)) == []


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_response_that_can_not_be_stored_says_so(is_stream: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageFull("The disk is full.")

    monkeypatch.setattr("mafunzo.control.workspace.responses.Responses.put", full)

    async def work(clients: Clients) -> None:
        answer = await clients.http.post(PATH, json={"model": "chat", "input": "Hi", "stream": is_stream})
        if is_stream:
            assert [one["type"] for one in events(answer)][-1] == "response.failed"
            assert events(answer)[-1]["response"]["error"]["message"] == "The disk is full."
        else:
            assert error(answer)[:2] == (507, "storage_full")
        assert 'status="507"' in await clients.metrics()

    run(work)


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_worker_s_refusal_names_the_part_of_the_request(is_stream: bool, run: Run) -> None:
    async def work(clients: Clients) -> None:
        answer = await clients.http.post(PATH, json={"model": "chat", "input": "refuse", "stream": is_stream})
        assert error(answer) == (400, None, "input", "messages: no.")

    run(work)


@pytest.mark.parametrize("content", [b"no JSON", b"[]", b"{}"])
def test_a_worker_that_answers_with_something_else_is_told(
    content: bytes, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def odd(_: web.Request) -> web.Response:
        return web.Response(body=content)

    monkeypatch.setattr("tests.unit.entrypoints.http.bench.answer", odd)

    async def work(clients: Clients) -> None:
        answer = await clients.http.post(PATH, json={"model": "chat", "input": "Hi"})
        assert error(answer)[:2] == (502, "worker_failed")

    run(work)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        pytest.param("POST", "", {"input": "Hi"}, 400, "names no model", id="no model"),
        pytest.param("POST", "", {"model": "other", "input": "Hi"}, 404, "'other' doesn't exist", id="another model"),
        pytest.param("POST", "", {"model": "chat", "input": "Hi", "seed": 1}, 400, "supplied: seed.", id="a field"),
        pytest.param("GET", "/resp_1", None, 404, "no stored response 'resp_1'", id="no response"),
        pytest.param("GET", "/resp_1?stream=true", None, 400, "supplied: stream.", id="its events"),
        pytest.param("GET", "/resp_1/input_items", None, 404, "no stored response", id="no response with items"),
        pytest.param("POST", "/resp_1/cancel", None, 404, "doesn't exist here", id="cancelling"),
    ],
)
def test_what_can_not_be_answered_is_refused(
    method: str, path: str, body: Any, status: int, text: str, run: Run
) -> None:
    async def work(clients: Clients) -> None:
        answer = await clients.http.request(method, PATH + path, json=body)
        assert answer.status_code == status
        assert text in answer.json()["error"]["message"]
        wrong = await clients.http.request(method, PATH + path, json=body, headers={"authorization": "Bearer wrong"})
        assert wrong.status_code == (404 if "cancel" in path else 401)

    run(work)


def test_the_endpoint_s_other_key_reads_it_and_the_key_of_all_endpoints_does_not(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(clients: Clients) -> None:
        address = f"{PATH}/{(await create(clients))['id']}"
        assert (await clients.http.get(address, headers={"authorization": "Bearer other"})).status_code == 200
        monkeypatch.setattr(responses, "rate_caller", lambda *_: GENERAL)
        assert (await clients.http.get(address)).status_code == 404

    run(work)


def test_a_conversation_that_is_too_large_is_refused(run: Run) -> None:
    async def work(clients: Clients) -> None:
        first = await create(clients, "x" * 300)
        body = {"model": "chat", "input": "y" * 300, "previous_response_id": first["id"]}
        told = error(await clients.http.post(PATH, json=body))
        assert told[0] == 400 and told[2] == "previous_response_id"

    run(work, Limits(chat_body_bytes=512))


def test_a_request_is_logged_under_its_own_address(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def work(clients: Clients) -> None:
        await create(clients)

    run(work)
    assert "POST /v1/responses chat/blue 200" in caplog.text
