"""Tests of `mafunzo.entrypoints.http.request_id`: every answer has an id, and the log tells it of what was refused."""

import asyncio
import logging

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mafunzo.entrypoints.http.request_id import RequestIds
from tests.unit.entrypoints.http.bench import CHAT, HOST, KEY, SCORE, Bench, Clients


def ids_of(*headers: tuple[bytes, bytes], path: str = "/x", status: int = 200) -> str:
    """The id that the answer to a request with such headers has."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=status, headers={"x-request-id": "the worker's own"})(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": list(headers)}
    asyncio.run(RequestIds(app)(scope, receive, send))
    [found] = [value for name, value in sent[0]["headers"] if name == b"x-request-id"]
    return str(found.decode())


def test_the_client_s_id_is_the_request_s() -> None:
    assert ids_of((b"x-request-id", b"4f1c-7")) == "4f1c-7"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([(b"x-request-id", b"")], id="empty"),
        pytest.param([(b"x-request-id", b"x" * 129)], id="too long"),
        pytest.param([(b"x-request-id", b"a\x1b[31m")], id="no id"),
        pytest.param([(b"x-request-id", b"a"), (b"x-request-id", b"b")], id="two"),
    ],
)
def test_without_an_id_a_request_gets_a_new_one(headers: list[tuple[bytes, bytes]]) -> None:
    first, second = ids_of(*headers), ids_of(*headers)
    assert first.startswith("req_")
    assert first != second


def test_a_refused_request_is_logged_once_with_its_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mafunzo.entrypoints.http.request_id")
    found = ids_of(path="/a\nb", status=404)
    assert ids_of(status=200)
    [record] = caplog.records
    assert record.getMessage().startswith("GET /a%0Ab 404 ")
    assert record.getMessage().endswith(f"request {found}")


def test_both_ports_answer_with_an_id_also_where_they_refuse(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def work(clients: Clients) -> None:
        for client in (clients.http, clients.azure):
            for headers, statuses in (
                ({"authorization": "Bearer wrong"}, (401, 404)),
                ({"host": "evil.example"}, (421,)),
            ):
                answer = await client.post(SCORE, headers=headers)
                assert answer.status_code in statuses
                assert f"request {answer.headers['x-request-id']}" in caplog.text

    Bench().run(work)


def test_a_fault_of_the_server_is_answered_with_the_id_by_which_its_log_tells_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    monkeypatch.setattr(bench.router, "open", lambda *_: 1 / 0)

    async def work(clients: Clients) -> None:
        for app, path, body in (
            (bench.http_app, CHAT, {"model": "chat", "messages": []}),
            (bench.azure_app, SCORE, {"input_data": {"input_string": [{"role": "user", "content": "hi"}]}}),
        ):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
                answer = await client.post(path, json=body, headers={"authorization": f"Bearer {KEY}"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "failed")
            request_id = answer.headers["x-request-id"]
            assert request_id in answer.json()["error"]["message"]
            assert f"Failed at request {request_id}" in caplog.text

    bench.run(work)
