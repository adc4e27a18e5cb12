"""`/score` and OpenAI's dialect take one way to a worker: the same metrics, access log and limits."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

import httpx
import pytest
from aiohttp import web
from starlette.types import Message

from mafunzo.control.serving.answer_id import reference_of
from mafunzo.entities.endpoint import Endpoint
from mafunzo.entities.rate_limit import RateLimit
from mafunzo.entrypoints.http.directory import Entry, Snapshot, digest
from mafunzo.entrypoints.http.limits import Limits
from tests.unit.entrypoints.http.bench import CHAT, HOST, KEY, SCORE, Bench, Clients

Ask = Callable[[Clients, str], Awaitable[httpx.Response]]

HELLO = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
DIALECTS = [
    pytest.param(lambda clients, said: clients.chat(said), CHAT, id="chat"),
    pytest.param(lambda clients, said: clients.score(said), SCORE, id="score"),
]


@pytest.mark.parametrize(("ask", "path"), DIALECTS)
@pytest.mark.parametrize(("said", "status"), [("hello", 200), ("refuse", 400), ("break off", 502)])
def test_a_request_counts_once_in_the_metrics_and_the_access_log(
    caplog: pytest.LogCaptureFixture, ask: Ask, path: str, said: str, status: int
) -> None:
    caplog.set_level(logging.INFO, "mafunzo.control.serving.router")

    async def work(clients: Clients) -> None:
        assert (await ask(clients, said)).status_code == status
        lines = (await clients.metrics()).splitlines()
        assert f'mafunzo_requests_total{{deployment="blue",endpoint="chat",status="{status}"}} 1.0' in lines
        assert 'mafunzo_request_seconds_count{deployment="blue",endpoint="chat"} 1.0' in lines
        assert 'mafunzo_requests_in_flight{deployment="blue",endpoint="chat"} 0.0' in lines

    Bench().run(work)
    messages = [record.getMessage() for record in caplog.records if record.name == "mafunzo.control.serving.router"]
    assert [message.rpartition(f" {status} ")[0] for message in messages] == [f"POST {path} chat/blue"]
    assert said not in messages[0]


@pytest.mark.parametrize(("ask", "path"), DIALECTS)
def test_a_deployment_with_as_many_requests_as_it_may_have_refuses_with_429(ask: Ask, path: str) -> None:
    bench = Bench(Limits(requests_in_flight=1))

    async def work(clients: Clients) -> None:
        snapshot = await bench._newest()
        [entry] = snapshot.entries
        with bench.router.open(entry.endpoint, entry.deployments, None, "/other"):
            answer = await ask(clients, "hello")
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert (await ask(clients, "hello")).status_code == 200

    bench.run(work)


def test_the_answer_says_which_deployment_gave_it() -> None:
    async def work(clients: Clients) -> None:
        for answer in (await clients.chat("hello"), await clients.score("hello")):
            assert answer.headers["mafunzo-deployment"] == answer.headers["azureml-model-deployment"] == "blue"

    Bench().run(work)


def test_conversations_are_answered_in_their_order_as_one_request() -> None:
    async def work(clients: Clients) -> None:
        assert (await clients.score("one", "two", "three")).json() == {"output": ["one", "two", "three"]}
        assert (await clients.score("one")).json() == {"output": "one"}
        assert 'mafunzo_requests_total{deployment="blue",endpoint="chat",status="200"} 2.0' in await clients.metrics()

    Bench().run(work)


def test_the_ids_of_the_answers_are_told_in_their_order_and_name_what_gave_them() -> None:
    bench = Bench()

    async def work(clients: Clients) -> None:
        whole = (await clients.chat("hello")).json()["id"]
        single = (await clients.score("one")).headers["mafunzo-answer"]
        several = (await clients.score("one", "two")).headers["mafunzo-answer"].split(",")
        blue = (await bench._newest()).entries[0].deployments[0]
        ids = [whole, single, *several]
        assert {reference_of(b"", one) for one in ids} == {blue.serving.reference}
        assert len(set(ids)) == 4
        assert "mafunzo-answer" not in (await clients.score("refuse")).headers

    bench.run(work)


def test_one_refused_conversation_is_the_answer() -> None:
    async def work(clients: Clients) -> None:
        answer = await clients.score("one", "refuse")
        assert (answer.status_code, answer.json()) == (400, {"error": {"message": "no"}})

    Bench().run(work)


def test_a_body_that_no_model_takes_is_refused_before_a_worker_is_asked() -> None:
    async def work(clients: Clients) -> None:
        assert (await clients.azure.post(SCORE, json={"messages": []})).status_code == 400
        assert (await clients.azure.post(SCORE, content=b"{")).status_code == 400
        assert (await clients.azure.post(SCORE, json={}, headers={"authorization": "Bearer wrong"})).status_code == 401
        assert "mafunzo_requests_total{" not in await clients.metrics()

    Bench().run(work)


def test_a_client_that_leaves_frees_its_place_and_ends_the_worker_s_part(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mafunzo.control.serving.router")
    bench = Bench()
    began, ended = asyncio.Event(), asyncio.Event()

    async def never(request: web.Request) -> web.StreamResponse:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return web.Response()

    monkeypatch.setattr("tests.unit.entrypoints.http.bench.answer", never)
    body = {"input_data": {"input_string": [{"role": "user", "content": "hello"}]}}
    messages: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await began.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    async def work(clients: Clients) -> None:
        headers = [(b"host", HOST.encode()), (b"authorization", f"Bearer {KEY}".encode())]
        scope = {"type": "http", "method": "POST", "path": SCORE, "query_string": b"", "headers": headers}
        await bench.azure_app({**scope, "root_path": "", "scheme": "https", "server": (HOST, 443)}, receive, send)
        await ended.wait()
        metrics = await clients.metrics()
        assert 'mafunzo_requests_in_flight{deployment="blue",endpoint="chat"} 0.0' in metrics
        assert 'mafunzo_requests_total{deployment="blue",endpoint="chat",status="499"} 1.0' in metrics

    bench.run(work)
    assert f"POST {SCORE} chat/blue 499" in caplog.text


def test_an_endpoint_that_nothing_answers_for_says_when_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    async def none() -> Snapshot:
        return Snapshot([Entry(Endpoint("chat"), (digest(KEY), digest("other")), [])])

    monkeypatch.setattr(bench.azure_app.state.serving.directory, "newest", none)

    async def work(clients: Clients) -> None:
        answer = await clients.score("hello")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")

    bench.run(work)


@pytest.mark.parametrize(("ask", "path"), DIALECTS)
def test_a_caller_that_has_asked_as_much_as_it_may_is_refused_with_when_to_come_again(ask: Ask, path: str) -> None:
    bench = Bench()
    bench.endpoint = Endpoint("chat", {"blue": 100}, rate_limits={"default": RateLimit(requests_per_minute=2)})

    async def work(clients: Clients) -> None:
        first = await ask(clients, "hello")
        assert (first.status_code, first.headers["x-ratelimit-remaining-requests"]) == (200, "1")
        assert (await ask(clients, "hello")).status_code == 200
        refused = await ask(clients, "hello")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
        assert "Caller 'primary' may ask endpoint 'chat' for 2 requests a minute" in refused.text
        other = {"authorization": "Bearer other"}
        assert (await clients.http.post(CHAT, json=HELLO, headers=other)).status_code == 200, "another key's requests"
        assert 'mafunzo_requests_total{deployment="blue",endpoint="chat",status="429"} 1.0' in await clients.metrics()

    bench.run(work)


@pytest.mark.parametrize(("ask", "path"), DIALECTS)
def test_tokens_that_answers_took_are_counted_against_the_limit(ask: Ask, path: str) -> None:
    bench = Bench()
    bench.endpoint = Endpoint("chat", {"blue": 100}, rate_limits={"primary": RateLimit(tokens_per_minute=1000)})

    async def work(clients: Clients) -> None:
        assert (await ask(clients, "take 995")).status_code == 200
        refused = await ask(clients, "hello")
        assert (refused.status_code, "1000 tokens a minute" in refused.text) == (429, True)

    bench.run(work)


def test_openais_refusal_says_what_is_left() -> None:
    bench = Bench()
    bench.endpoint = Endpoint("chat", {"blue": 100}, rate_limits={"default": RateLimit(1, 1000)})

    async def work(clients: Clients) -> None:
        await clients.chat("hello")
        refused = await clients.chat("hello")
        assert refused.headers["x-ratelimit-limit-requests"] == "1"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-ratelimit-reset-requests"] == "1m0s"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"

    bench.run(work)


def test_without_a_limit_no_answer_tells_of_one() -> None:
    async def work(clients: Clients) -> None:
        answer = await clients.chat("hello")
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]

    Bench().run(work)
