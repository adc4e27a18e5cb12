"""The forward path, against workers that are web applications of this process: what is sent again, counted, logged, refused."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.control.serving.router import Current, Exchange, Router
from mafunzo.control.serving.worker_folder import worker_token
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint, Supervision
from mafunzo.entities.rate_limit import RateLimit
from mafunzo.errors import ClientGone, MafunzoError, RateLimitExceeded, TimedOut, Unavailable, WorkerFailed

TestServer.__test__ = False
PATH = "/v1/chat/completions"
LABELS = {"endpoint": "chat", "deployment": "blue"}
HEALTHY, WAITING, FAILED = DeploymentStatus.HEALTHY, DeploymentStatus.WAITING, DeploymentStatus.FAILED
Worker = Callable[[web.Request], Awaitable[web.StreamResponse]]
NOBODY = 1
"""A port that nobody listens on."""


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(status=200, body=await request.read(), headers={"x-request-id": "7", "x-secret": "s"})


async def refuse(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {}}, status=400)


async def break_off(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off_in_the_middle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "100"})
    await response.prepare(request)
    await response.write(b"half")
    return await break_off(request)


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


def at_first(worker: Worker, then: Worker = echo) -> Worker:
    """A worker that is `worker` for its first request."""
    workers = iter([worker])

    async def answer(request: web.Request) -> web.StreamResponse:
        return await next(workers, then)(request)

    return answer


def deployment(port: int | None, name: str = "blue", status: DeploymentStatus = HEALTHY, **more: Any) -> Deployment:
    fields = {"request_timeout_s": 0.3, "attempt": 1} | more
    return Deployment("chat", name, "m:1", "sha256:0", status=status, port=port, **fields)


class Bench:
    """A router, and the worker of the deployment chat/blue. `records` are what is deployed, at each look anew; the last stays."""

    def __init__(self, requests_in_flight: int = 10, requests_at_once: int = 16) -> None:
        self.registry = CollectorRegistry()
        self.records: list[Sequence[Deployment]] = []
        self.endpoint = Endpoint("chat", {"blue": 100})
        self.router = Router(
            RequestMetrics(self.registry),
            requests_in_flight,
            draw=lambda: 0.5,
            requests_at_once=requests_at_once,
            current=self._current,
        )
        self.port: int | None = None

    async def _current(self) -> Mapping[str, Current]:
        records = self.records.pop(0) if len(self.records) > 1 else self.records[0]
        return {"chat": (self.endpoint, records)}

    def open(self, *deployments: Deployment, name: str | None = None) -> Exchange:
        records = deployments or (deployment(self.port),)
        self.records = self.records or [records]
        return self.router.open(self.endpoint, records, name, "/asked")

    def run(self, work: Callable[[], Awaitable[object]], worker: Worker) -> None:
        async def around() -> None:
            async with served(worker) as server, self.router:
                self.port = server.port
                await work()

        asyncio.run(around())

    def requests(self, status: int, name: str = "blue") -> float | None:
        labels = {**LABELS, "deployment": name, "status": str(status)}
        return self.registry.get_sample_value("mafunzo_requests_total", labels)

    def in_flight(self, name: str = "blue") -> float | None:
        return self.registry.get_sample_value("mafunzo_requests_in_flight", {**LABELS, "deployment": name})

    def waiting(self) -> float | None:
        return self.registry.get_sample_value("mafunzo_requests_waiting", LABELS)

    def unanswered(self) -> float | None:
        return self.registry.get_sample_value("mafunzo_requests_unanswered_total", LABELS)


def served(worker: Worker) -> TestServer:
    app = web.Application()
    app.router.add_post(PATH, worker)
    return TestServer(app)


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


def test_the_request_s_id_is_logged_and_reaches_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    caplog.set_level(logging.INFO, "mafunzo.control.serving.router")
    seen: list[str] = []

    async def worker(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["x-request-id"])
        return await echo(request)

    async def work() -> None:
        await ask(bench.router.open(bench.endpoint, [deployment(bench.port)], None, "/asked", "req_1"))

    bench.run(work, worker)
    assert seen == ["req_1"]
    assert caplog.records[0].getMessage().endswith(" s, request req_1")


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
    [
        pytest.param(break_off, WorkerFailed, id="breaks off"),
        pytest.param(break_off_in_the_middle, WorkerFailed, id="breaks off in the middle"),
        pytest.param(never, TimedOut, id="takes too long"),
    ],
)
def test_a_worker_that_fails_is_counted_with_the_error_s_status(worker: Worker, error: type[MafunzoError]) -> None:
    bench = Bench()

    async def work() -> None:
        with pytest.raises(error):
            await ask(bench.open())

    bench.run(work, worker)
    assert (bench.requests(error.status), bench.in_flight()) == (1, 0)


def test_a_request_after_a_fault_of_the_worker_finds_no_closing_connection() -> None:
    bench = Bench()
    closing = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer 500 as uvicorn does: the connection seems to stay open, and is closed after the answer was read."""
        while (head := await reader.readuntil(b"\r\n\r\n")) and await reader.readexactly(5):
            is_first = not closing.is_set()
            status = b"500 Internal Server Error" if is_first else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\nok")
            assert head
            if is_first:
                await closing.wait()
                break
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        bench.port = server.sockets[0].getsockname()[1]
        async with server, bench.router:
            with bench.open() as exchange:
                answer = await exchange.ask(PATH, b"hello", {})
                await answer.read()
                assert answer.status == 500
            closing.set()
            assert await ask(bench.open()) == b"ok"

    asyncio.run(work())
    assert bench.unanswered() is None, "nothing had to be sent again"


@pytest.mark.parametrize("worker", [break_off, break_off_in_the_middle])
def test_what_a_worker_left_unanswered_is_sent_once_more(worker: Worker) -> None:
    bench = Bench()

    async def work() -> None:
        assert await ask(bench.open()) == b"hello"

    bench.run(work, at_first(worker))
    assert (bench.requests(200), bench.unanswered(), bench.in_flight()) == (1, 1, 0)


def test_a_request_that_no_worker_answers_is_sent_twice_at_most() -> None:
    bench = Bench()
    sent: list[web.Request] = []

    async def worker(request: web.Request) -> web.StreamResponse:
        sent.append(request)
        return await break_off(request)

    async def work() -> None:
        with pytest.raises(WorkerFailed, match="broke off before its answer, 2 times"):
            await ask(bench.open())

    bench.run(work, worker)
    assert len(sent) == 2


def test_an_answer_of_a_worker_is_never_asked_for_again_whatever_its_status() -> None:
    bench = Bench()
    sent: list[web.Request] = []

    async def worker(request: web.Request) -> web.StreamResponse:
        sent.append(request)
        return web.json_response({}, status=500)

    bench.run(lambda: ask(bench.open()), worker)
    assert (len(sent), bench.requests(500)) == (1, 1)


def test_a_worker_that_is_gone_is_unavailable() -> None:
    bench = Bench()
    bench.registry = CollectorRegistry()
    bench.router = Router(RequestMetrics(bench.registry), 10)

    async def work() -> None:
        async with bench.router:
            with pytest.raises(Unavailable, match="can't be reached"):
                await ask(bench.open(deployment(NOBODY)))

    asyncio.run(work())
    assert bench.requests(503) == 1


def test_another_deployment_answers_for_a_worker_that_is_gone() -> None:
    bench = Bench()
    bench.endpoint = Endpoint("chat", {"blue": 99, "green": 1})

    async def work() -> None:
        assert await ask(bench.open(deployment(NOBODY), deployment(bench.port, "green"))) == b"hello"

    bench.run(work, echo)
    assert (bench.requests(200, "green"), bench.requests(200, "blue")) == (1, None)
    assert (bench.in_flight("green"), bench.in_flight("blue")) == (0, 0)


def test_a_request_waits_for_the_next_worker_of_the_deployment_that_it_names() -> None:
    bench = Bench()

    async def work() -> None:
        dead, green = deployment(NOBODY, request_timeout_s=60.0), deployment(bench.port, "green")
        back = Supervision(was_healthy=True)
        bench.records = [
            [dead, green],
            [deployment(None, status=WAITING, supervision=back), green],
            [deployment(bench.port, attempt=2), green],
        ]
        assert await ask(bench.open(dead, green, name="blue")) == b"hello"

    bench.run(work, echo)
    assert bench.requests(200) == 1


def test_a_request_waits_for_a_worker_that_was_starting_again_when_it_came() -> None:
    bench = Bench()

    async def work() -> None:
        down = deployment(None, status=WAITING, supervision=Supervision(was_healthy=True), request_timeout_s=60.0)
        bench.records = [[down], [deployment(bench.port, attempt=2)]]
        assert await ask(bench.open(down)) == b"hello"

    bench.run(work, echo)
    assert bench.requests(200) == 1


def test_a_worker_that_does_not_come_back_in_time_is_told() -> None:
    bench = Bench()

    async def work() -> None:
        with pytest.raises(Unavailable, match=r"ended and didn't come back in 0\.3 s"):
            await ask(bench.open(deployment(None, status=WAITING, supervision=Supervision(was_healthy=True))))

    bench.run(work, echo)
    assert (bench.requests(503), bench.in_flight()) == (1, 0)


def test_nobody_waits_for_a_deployment_that_has_failed() -> None:
    bench = Bench()

    async def work() -> None:
        dead = deployment(NOBODY, request_timeout_s=3600.0)
        bench.records = [[deployment(None, status=FAILED, supervision=Supervision(was_healthy=True))]]
        with pytest.raises(Unavailable, match="can't be reached"):
            await ask(bench.open(dead))

    bench.run(work, echo)


def test_nobody_waits_for_a_worker_that_never_answered() -> None:
    with pytest.raises(Unavailable, match="no healthy deployment now"):
        Bench().open(deployment(None, status=WAITING, request_timeout_s=3600.0))


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


def test_a_worker_has_as_many_requests_at_once_as_it_may_and_the_others_follow_in_their_order() -> None:
    bench = Bench(requests_at_once=2)
    with_worker: list[bytes] = []
    go_on = asyncio.Semaphore(0)

    async def worker(request: web.Request) -> web.StreamResponse:
        with_worker.append(await request.read())
        await go_on.acquire()
        return web.Response()

    async def one(body: bytes) -> None:
        with bench.open(deployment(bench.port, request_timeout_s=3600.0)) as exchange:
            await exchange.ask(PATH, body, {})

    async def work() -> None:
        tasks = [asyncio.create_task(one(b"%d" % number)) for number in range(4)]
        await _until(lambda: len(with_worker) == 2)
        assert (bench.in_flight(), bench.waiting()) == (4, 2)
        tasks[2].cancel()  # its client left: the next one has its turn
        go_on.release()
        await _until(lambda: len(with_worker) == 3)
        assert (with_worker[2], bench.waiting()) == (b"3", 0)
        go_on.release()
        go_on.release()
        await asyncio.gather(*tasks, return_exceptions=True)

    bench.run(work, worker)
    assert bench.in_flight() == 0


def test_a_request_that_moves_to_the_next_worker_of_its_deployment_stays_in_its_queue() -> None:
    bench, first = Bench(requests_at_once=1), deployment(NOBODY)

    async def work() -> None:
        bench.router.begin(first)
        slot = await bench.router.queues.take(first)
        bench.router.move(first, after := deployment(NOBODY, attempt=2))
        next_one = asyncio.create_task(bench.router.queues.take(after))
        await asyncio.sleep(0)
        assert not next_one.done()
        slot.free()
        (await next_one).free()

    asyncio.run(work())


def test_a_request_that_ends_every_worker_fails_alone() -> None:
    bench = Bench()
    connections: set[asyncio.BaseTransport] = set()
    came: list[bytes] = []
    is_over = asyncio.Event()
    moved_s = 0.0

    async def worker(request: web.Request) -> web.StreamResponse:
        """Poison ends all that the worker has, once all are there; what is sent again is there for longer than a trial."""
        nonlocal moved_s
        body = await request.read()
        came.append(body)
        assert request.transport is not None
        connections.add(request.transport)
        if body == b"poison":
            await _until(lambda: len(came) >= 4)
            for transport in connections:
                transport.abort()  # type: ignore[attr-defined]
            connections.clear()
        elif len(came) > 4:
            moved_s += 60.0
        await is_over.wait()
        return web.Response(body=body)

    async def one(body: bytes) -> bytes | WorkerFailed:
        try:
            with bench.open(deployment(bench.port, request_timeout_s=1e6)) as exchange:
                return await (await exchange.ask(PATH, body, {})).read()
        except WorkerFailed as error:
            is_over.set()
            return error

    async def work() -> None:
        loop = asyncio.get_running_loop()
        now = loop.time
        loop.time = lambda: now() + moved_s  # type: ignore[method-assign]
        answers = await asyncio.gather(*map(one, (b"1", b"2", b"poison", b"3")))
        assert [answer for answer in answers if isinstance(answer, bytes)] == [b"1", b"2", b"3"]
        assert came.count(b"poison") == 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mafunzo.control.serving.queue.TRIAL_S", 30.0)
        bench.run(work, worker)
    assert (bench.requests(200), bench.requests(502)) == (3, 1)


def test_what_waited_in_the_queue_only_is_told_so() -> None:
    bench = Bench(requests_at_once=1)

    async def work() -> None:
        with bench.open(deployment(bench.port, request_timeout_s=3600.0)) as first:
            asking = asyncio.create_task(first.ask(PATH, b"", {}))
            await _until(lambda: bench.waiting() == 0)
            message = (
                r"waited 0\.3 s \(request_timeout\) in the queue of deployment 'chat/blue', and the model never began"
            )
            with pytest.raises(TimedOut, match=message):
                await ask(bench.open())
            asking.cancel()
            await asyncio.wait([asking])
        with pytest.raises(TimedOut, match=r"didn't finish its answer in 0\.3 s \(request_timeout\)\. Ask for fewer"):
            await ask(bench.open())

    bench.run(work, never)
    assert (bench.waiting(), bench.requests(504)) == (0, 2)


async def _until(is_reached: Callable[[], bool]) -> None:
    while not is_reached():
        await asyncio.sleep(0)


async def tell_authorization(request: web.Request) -> web.StreamResponse:
    return web.Response(body=request.headers.get("authorization", "").encode())


def test_a_worker_gets_its_own_token_and_never_the_client_s_key() -> None:
    bench, answers = Bench(), []
    bench.router = Router(RequestMetrics(CollectorRegistry()), 10, secret=b"of the home")

    async def work() -> None:
        answers.append(await ask(bench.open()))

    bench.run(work, tell_authorization)
    assert answers == [f"Bearer {worker_token(b'of the home', bench.open().deployment)}".encode()]


def several(port: int | None, statuses: Sequence[DeploymentStatus], **more: Any) -> Deployment:
    """A deployment whose workers have these statuses, all on one port."""
    made = deployment(port, status=statuses[0], **more)
    for number, status in enumerate(statuses[1:], 1):
        made = made.with_worker(replace(made.workers[0], number=number, attempt=number + 1, status=status))
    return made


def test_requests_go_to_the_least_busy_worker_and_those_that_wait_to_the_first_that_is_free() -> None:
    bench = Bench(requests_at_once=2)
    go_on = asyncio.Semaphore(0)
    answered: list[str] = []

    async def worker(request: web.Request) -> web.StreamResponse:
        await go_on.acquire()
        return web.Response()

    async def one(record: Deployment) -> None:
        with bench.open(record) as exchange:
            await (await exchange.ask(PATH, b"", {})).read()
            answered.append(exchange.deployment.worker)

    async def work() -> None:
        two = several(bench.port, (HEALTHY, HEALTHY), request_timeout_s=3600.0)
        first, second = two.workers
        tasks = [asyncio.create_task(one(two)) for _ in range(5)]
        busy = bench.router.queues.loads.busy
        await _until(lambda: (busy(first), busy(second)) == (2, 2))
        assert (bench.in_flight(), bench.waiting()) == (5, 1)
        for _ in range(5):
            go_on.release()
        await asyncio.gather(*tasks)
        assert (busy(first), busy(second)) == (0, 0)

    bench.run(work, worker)
    assert {answered.count("blue"), answered.count("blue#2")} == {2, 3}


def test_a_request_that_waits_goes_to_a_worker_that_was_not_there_when_it_came() -> None:
    bench = Bench(requests_at_once=1)
    asked: list[str] = []

    async def worker(request: web.Request) -> web.StreamResponse:
        asked.append(await request.text())
        return await (never if asked[-1] == "first" else echo)(request)

    async def one(record: Deployment, body: bytes) -> bytes:
        with bench.open(record) as exchange:
            return await (await exchange.ask(PATH, body, {})).read()

    async def work() -> None:
        one_worker = several(bench.port, (HEALTHY,), request_timeout_s=3600.0)
        bench.records = [[several(bench.port, (HEALTHY, HEALTHY), request_timeout_s=3600.0)]]
        first = asyncio.create_task(one(one_worker, b"first"))
        await _until(lambda: asked == ["first"])
        assert await one(one_worker, b"second") == b"second"
        first.cancel()
        await asyncio.wait([first])

    bench.run(work, worker)


def test_another_worker_of_the_deployment_answers_for_one_that_is_gone() -> None:
    bench = Bench()

    async def work() -> None:
        gone, there = several(NOBODY, (HEALTHY, HEALTHY)).workers
        record = gone.with_worker(replace(there, port=bench.port))
        assert await ask(bench.open(record)) == b"hello"

    bench.run(work, echo)
    assert bench.requests(200) == 1


def test_a_request_wakes_an_idle_deployment_and_waits_for_longer_than_an_answer_may_take() -> None:
    bench = Bench()
    back = Supervision(was_healthy=True, is_woken=True)

    async def work() -> None:
        idle = deployment(None, status=DeploymentStatus.IDLE, supervision=Supervision(was_healthy=True))
        starting = replace(idle, status=DeploymentStatus.STARTING, supervision=back)
        bench.records = [[starting]] * 8 + [[deployment(bench.port, attempt=2)]]
        assert bench.router.queues.loads.most(idle) == 0
        assert await ask(bench.open(idle)) == b"hello"
        assert bench.router.queues.loads.most(idle) == 1, "what the supervisor sees of it"

    bench.run(work, echo)
    assert bench.requests(200) == 1


def test_a_deployment_that_does_not_wake_in_time_is_told() -> None:
    bench = Bench()

    async def work() -> None:
        idle = deployment(
            None, status=DeploymentStatus.IDLE, supervision=Supervision(was_healthy=True), initial_delay_s=0.2
        )
        with pytest.raises(Unavailable, match=r"was idle, and no worker of it was healthy after 0\.2 s"):
            await ask(bench.open(idle))

    bench.run(work, echo)
    assert (bench.requests(503), bench.in_flight()) == (1, 0)


def test_no_request_goes_to_a_worker_that_is_about_to_end() -> None:
    bench = Bench()

    async def work() -> None:
        there, leaving = several(NOBODY, (DeploymentStatus.DRAINING, HEALTHY)).workers
        record = leaving.with_worker(replace(there, port=bench.port))
        assert await ask(bench.open(record)) == b"hello"

    bench.run(work, echo)
    assert bench.unanswered() is None


def test_a_callers_many_requests_leave_another_its_share() -> None:
    bench = Bench(requests_in_flight=4)
    record = deployment(1)

    def enter(caller: str) -> Exchange:
        exchange = bench.router.open(bench.endpoint, [record], None, "/asked", caller=caller)
        exchange.__enter__()
        return exchange

    many = [enter("primary") for _ in range(4)]
    with pytest.raises(RateLimitExceeded):
        enter("primary")
    others = [enter("secondary"), enter("secondary")]
    with pytest.raises(RateLimitExceeded):
        enter("secondary")
    for exchange in [*many, *others]:
        exchange.end(200)
    assert bench.in_flight() == 0
    assert enter("secondary").status == 200


def test_a_stream_that_ends_settles_what_it_took() -> None:
    bench = Bench()
    bench.endpoint = Endpoint("chat", {"blue": 100}, rate_limits={"default": RateLimit(tokens_per_minute=100)})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(7):
            await response.write(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
        return response

    async def work() -> None:
        records = [deployment(bench.port)]
        with bench.router.open(bench.endpoint, records, None, "/asked", caller="primary", tokens=90) as exchange:
            assert exchange.rate.tokens is not None and exchange.rate.tokens.rest == 10
            answer = await exchange.ask(PATH, b"x" * 20, {}, is_stream=True)
            exchange.relay()
        assert [chunk async for chunk in answer.chunks()]
        exchange.end(answer.outcome)
        assert exchange.rate.tokens is not None and exchange.rate.tokens.rest >= 100 - (20 // 4 + 7)
        assert exchange.rate.tokens.rest < 100

    bench.run(work, stream)


def test_what_one_worker_left_unanswered_is_sent_to_another_of_its_deployment() -> None:
    bench = Bench()
    asked: list[str] = []

    async def once(request: web.Request) -> web.StreamResponse:
        asked.append("broken")
        return await break_off(request)

    async def work() -> None:
        async with served(once) as broken:
            one, two = several(broken.port, (HEALTHY, HEALTHY), request_timeout_s=3600.0).workers
            record = one.with_worker(replace(two, port=bench.port))
            for _ in range(3):
                assert await ask(bench.open(record)) == b"hello"

    bench.run(work, echo)
    assert asked and bench.unanswered() == len(asked)
    assert bench.requests(200) == 3


@pytest.mark.parametrize("is_known", [False, True], ids=["its worker is gone", "its record says so already"])
def test_a_request_that_comes_just_when_the_last_worker_ends_wakes_the_next(is_known: bool) -> None:
    bench = Bench()

    async def work() -> None:
        was = Supervision(was_healthy=True)
        ended = deployment(NOBODY, supervision=was)
        idle = deployment(None, status=DeploymentStatus.IDLE, supervision=was)
        bench.records = [[idle]] * 8 + [[deployment(bench.port, attempt=2)]]
        with bench.open(ended) as exchange:
            if is_known:
                exchange._read_s -= 1.0  # it stood in the queue for a while
            answer = await exchange.ask(PATH, b"hello", {})
            assert await answer.read() == b"hello"

    bench.run(work, echo)
    assert bench.requests(200) == 1
