"""The forward path, against a worker that is a web application of this process: what is counted, logged and refused."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.control.serving.router import Exchange, Router
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.errors import ClientGone, MafunzoError, RateLimitExceeded, TimedOut, Unavailable, WorkerFailed

TestServer.__test__ = False
PATH = "/v1/chat/completions"
LABELS = {"endpoint": "chat", "deployment": "blue"}


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(status=200, body=await request.read(), headers={"x-request-id": "7", "x-secret": "s"})


async def refuse(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {}}, status=400)


async def break_off(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


class Bench:
    """A router, and the worker of the deployment chat/blue."""

    def __init__(self, requests_in_flight: int = 10) -> None:
        self.registry = CollectorRegistry()
        self.router = Router(RequestMetrics(self.registry), requests_in_flight)
        self.port: int | None = None

    def open(self) -> Exchange:
        blue = Deployment("chat", "blue", "m:1", "sha256:0", status=DeploymentStatus.HEALTHY, port=self.port)
        blue = Deployment(**{**vars(blue), "request_timeout_s": 0.3})
        return self.router.open(Endpoint("chat", {"blue": 100}), [blue], None, "/asked")

    def run(self, work: Callable[[], Awaitable[object]], worker: Callable[..., Awaitable[web.StreamResponse]]) -> None:
        async def around() -> None:
            app = web.Application()
            app.router.add_post(PATH, worker)
            async with TestServer(app) as server, self.router:
                self.port = server.port
                await work()

        asyncio.run(around())

    def requests(self, status: int) -> float | None:
        return self.registry.get_sample_value("mafunzo_requests_total", {**LABELS, "status": str(status)})

    def in_flight(self) -> float | None:
        return self.registry.get_sample_value("mafunzo_requests_in_flight", LABELS)


async def ask(exchange: Exchange) -> bytes:
    with exchange:
        answer = await exchange.ask(PATH, b"hello", {"content-type": "text/plain", "authorization": "Bearer k"})
        content = await answer.read()
        exchange.status = answer.status
    return content


def test_an_answer_is_passed_back_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    caplog.set_level(logging.INFO, "mafunzo.control.serving.router")

    async def work() -> None:
        assert await ask(bench.open()) == b"hello"

    bench.run(work, echo)
    assert (bench.requests(200), bench.in_flight()) == (1, 0)
    assert bench.registry.get_sample_value("mafunzo_request_seconds_count", LABELS) == 1
    assert [record.getMessage().rpartition(" 200 ")[0] for record in caplog.records] == ["POST /asked chat/blue"]


def test_a_refusal_of_the_worker_is_an_answer() -> None:
    bench = Bench()
    bench.run(lambda: ask(bench.open()), refuse)
    assert (bench.requests(400), bench.in_flight()) == (1, 0)


def test_headers_that_concern_nobody_else_are_not_passed_on() -> None:
    bench = Bench()
    seen: dict[str, str] = {}

    async def worker(request: web.Request) -> web.StreamResponse:
        seen.update(request.headers)
        return await echo(request)

    async def work() -> None:
        with bench.open() as exchange:
            answer = await exchange.ask(PATH, b"", {"content-type": "text/plain", "authorization": "Bearer k"})
            await answer.read()
            assert answer.headers.get("x-request-id") == "7"
            assert "x-secret" not in answer.headers

    bench.run(work, worker)
    assert seen["Content-Type"] == "text/plain"
    assert "Authorization" not in seen


@pytest.mark.parametrize(
    ("worker", "error"),
    [pytest.param(break_off, WorkerFailed, id="breaks off"), pytest.param(never, TimedOut, id="takes too long")],
)
def test_a_worker_that_fails_is_counted_with_the_error_s_status(
    worker: Callable[..., Awaitable[web.StreamResponse]], error: type[MafunzoError]
) -> None:
    bench = Bench()

    async def work() -> None:
        with pytest.raises(error):
            await ask(bench.open())

    bench.run(work, worker)
    assert (bench.requests(error.status), bench.in_flight()) == (1, 0)


def test_a_worker_that_is_gone_is_unavailable() -> None:
    bench = Bench()

    async def work() -> None:
        async with bench.router:
            bench.port = 1
            with pytest.raises(Unavailable, match="can't be reached"):
                await ask(bench.open())

    asyncio.run(work())
    assert bench.requests(503) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(ClientGone("It left."), 499, id="the client left"),
        pytest.param(KeyError(), 500, id="a fault of ours"),
    ],
)
def test_whatever_ends_a_request_is_counted_once(error: Exception, status: int) -> None:
    bench = Bench()
    with pytest.raises(type(error)), bench.open():
        raise error
    assert (bench.requests(status), bench.in_flight()) == (1, 0)


def test_a_stream_ends_when_whoever_relays_it_says_so() -> None:
    bench = Bench()
    with bench.open() as exchange:
        exchange.relay()
    assert (bench.requests(200), bench.in_flight()) == (None, 1)
    exchange.end(200)
    assert (bench.requests(200), bench.in_flight()) == (1, 0)


def test_more_requests_than_a_deployment_may_have_are_refused_and_counted() -> None:
    bench = Bench(requests_in_flight=2)
    with bench.open(), bench.open():
        with pytest.raises(RateLimitExceeded, match="chat/blue' has 2 requests under way"), bench.open():
            pytest.fail("A third request was let in.")
        assert (bench.requests(429), bench.in_flight()) == (1, 2)
    with bench.open():
        assert bench.in_flight() == 1
