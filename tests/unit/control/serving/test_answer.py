"""Streams on their way to a client: how long they may last, what keeps them alive, and how their end is counted."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from mafunzo.control.serving import answer as module
from mafunzo.control.serving import router
from mafunzo.control.serving.answer import KEEP_ALIVE, Answer
from mafunzo.entities.endpoint import Deployment
from mafunzo.errors import TimedOut
from tests.unit.control.serving.test_router import PATH, Bench, Worker, at_first, deployment, never

HOUR_S = 3600.0


@pytest.fixture(autouse=True)
def without_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have answers pass as they are: `test_named_answer.py` has their ids."""
    monkeypatch.setattr(router, "KINDS", {})


def stream(write: Callable[[web.StreamResponse], Awaitable[None]]) -> Worker:
    """A worker whose answer is a stream that `write` writes."""

    async def worker(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await write(response)
        return response

    return worker


async def begin(bench: Bench, timeout_s: float = HOUR_S, name: str = "blue") -> Answer:
    with bench.open(deployment(bench.port, request_timeout_s=timeout_s)) as exchange:
        return await exchange.ask(PATH, b"hello", {}, is_stream=True)


def last_error(chunks: list[bytes]) -> str:
    assert chunks[-1].endswith(b"\n\n")
    event = chunks[-1].strip().rpartition(b"\n")[2]
    return str(json.loads(event.removeprefix(b"data: "))["error"]["message"])


def test_a_stream_lasts_while_it_flows_however_long() -> None:
    bench, has_come = Bench(), asyncio.Event()

    async def write(response: web.StreamResponse) -> None:
        loop, moved_s = asyncio.get_running_loop(), 0.0
        now = loop.time
        loop.time = lambda: now() + moved_s  # type: ignore[method-assign]
        for number in range(20):
            await response.write(b"data: %d\n\n" % number)
            await has_come.wait()
            has_come.clear()
            moved_s += 40.0

    async def work() -> None:
        answer, chunks = await begin(bench, timeout_s=60.0), []
        async for chunk in answer.chunks():
            chunks.append(chunk)
            if chunk != KEEP_ALIVE:
                has_come.set()
        assert [chunk for chunk in chunks if chunk != KEEP_ALIVE] == [b"data: %d\n\n" % number for number in range(20)]
        assert answer.outcome == 200

    bench.run(work, stream(write))


def test_a_pause_that_is_too_long_ends_a_stream_and_is_no_success() -> None:
    bench = Bench()

    async def write(response: web.StreamResponse) -> None:
        await response.write(b'data: 1\n\ndata: {"half')
        await asyncio.Event().wait()

    async def work() -> None:
        answer = await begin(bench, timeout_s=0.1)
        chunks = [chunk async for chunk in answer.chunks()]
        assert b"".join(chunks[:-1]) == b'data: 1\n\ndata: {"half'
        assert chunks[-1].startswith(b"\n\ndata: "), "the error is an event of its own"
        assert "wrote nothing for 0.1 s (request_timeout)" in last_error(chunks)
        assert answer.outcome == 504

    bench.run(work, stream(write))


def test_a_silent_stream_is_kept_alive_by_comments_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.01)
    bench, has_come = Bench(), asyncio.Event()

    async def write(response: web.StreamResponse) -> None:
        await response.write(b"data: 1\n\n")
        await has_come.wait()
        await response.write(b"data: 2\n\n")

    async def work() -> None:
        answer, chunks = await begin(bench), []
        async for chunk in answer.chunks():
            chunks.append(chunk)
            if chunk == KEEP_ALIVE:
                has_come.set()
        assert b"".join(chunk for chunk in chunks if chunk != KEEP_ALIVE) == b"data: 1\n\ndata: 2\n\n"
        assert KEEP_ALIVE in chunks

    bench.run(work, stream(write))


def test_no_comment_comes_into_the_middle_of_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.01)
    bench = Bench()

    async def write(response: web.StreamResponse) -> None:
        await response.write(b"data: 1\n\n")
        await response.write(b"data: 2")
        await asyncio.Event().wait()

    async def work() -> None:
        chunks = [chunk async for chunk in (await begin(bench, timeout_s=0.3)).chunks()]
        assert b"".join(chunks[:-1]).partition(b"data: 2")[2] == b""

    bench.run(work, stream(write))


@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        pytest.param([b"data: 1\n\n", b"data: [DONE]\n\n"], 200, id="whole"),
        pytest.param([b'data: {"error":{"message":"no"}}\n\n'], 500, id="an error of the worker's"),
        pytest.param([b'data: {"err', b'or":{"message":"no"}}\n\n'], 500, id="an error in two pieces"),
        pytest.param([b'data: {"text":"data: {\\"error\\""}\n\n'], 200, id="text that looks like an error"),
    ],
)
def test_a_stream_that_ends_is_counted_by_what_it_said(pieces: list[bytes], outcome: int) -> None:
    bench = Bench()

    async def write(response: web.StreamResponse) -> None:
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)

    async def work() -> None:
        answer = await begin(bench)
        assert b"".join([chunk async for chunk in answer.chunks()]) == b"".join(pieces)
        assert answer.outcome == outcome

    bench.run(work, stream(write))


def test_a_stream_that_breaks_off_or_that_its_client_leaves_is_no_success() -> None:
    bench = Bench()

    async def write(response: web.StreamResponse) -> None:
        await response.write(b"data: 1\n\n")

    async def break_off(request: web.Request) -> web.StreamResponse:
        response = await stream(write)(request)
        assert request.transport is not None
        request.transport.close()
        return response

    async def work() -> None:
        answer = await begin(bench)
        chunks = [chunk async for chunk in answer.chunks()]
        assert ("broke off" in last_error(chunks), answer.outcome) == (True, 502)
        left = await begin(bench)
        left.close()
        assert left.outcome == 499

    bench.run(work, break_off)


ROLE = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]}\n\n'
)
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Habari"},"finish_reason":null}]}\n\n'


def test_a_stream_that_broke_off_before_its_first_token_is_asked_for_once_more() -> None:
    bench = Bench()

    async def die(request: web.Request) -> web.StreamResponse:
        response = await stream(lambda response: response.write(ROLE))(request)
        assert request.transport is not None
        request.transport.close()
        return response

    async def write(response: web.StreamResponse) -> None:
        await response.write(ROLE + ROLE)
        await response.write(TOKEN)

    async def work() -> None:
        answer = await begin(bench)
        assert b"".join([chunk async for chunk in answer.chunks()]) == ROLE + ROLE + TOKEN
        assert (answer.outcome, bench.unanswered()) == (200, 1)

    bench.run(work, at_first(die, stream(write)))


def test_a_stream_without_a_token_in_time_is_no_answer() -> None:
    bench = Bench()

    async def write(response: web.StreamResponse) -> None:
        await response.write(ROLE)
        await asyncio.Event().wait()

    async def work() -> None:
        with pytest.raises(TimedOut, match=r"didn't finish its answer in 0\.2 s"):
            await begin(bench, timeout_s=0.2)

    bench.run(work, stream(write))


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(TOKEN, id="a token"),
        pytest.param(b'data: {"choices":[{"delta":{"tool_calls":[{}]}}]}\n\n', id="a tool call"),
        pytest.param(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n', id="an end"),
        pytest.param(b'data: {"choices":[{"text":"Habari"}]}\n\n', id="a text completion"),
        pytest.param(b'data: {"error":{"message":"no"}}\n\n', id="an error"),
        pytest.param(b"data: [DONE]\n\n", id="nothing at all"),
        pytest.param(b": a comment\n\n", id="a comment"),
    ],
)
def test_whatever_says_something_begins_a_stream(event: bytes) -> None:
    bench, released = Bench(), asyncio.Event()

    async def write(response: web.StreamResponse) -> None:
        await response.write(ROLE)
        await response.write(event)
        await released.wait()

    async def work() -> None:
        answer = await begin(bench)
        released.set()
        assert b"".join([chunk async for chunk in answer.chunks()]) == ROLE + event

    bench.run(work, stream(write))


def test_a_stream_that_waits_in_the_queue_begins_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.01)
    bench, released = Bench(requests_at_once=1), asyncio.Event()

    async def write(response: web.StreamResponse) -> None:
        await released.wait()
        await response.write(b"data: 1\n\n")

    async def work() -> None:
        first, second = await begin(bench), await begin(bench)
        assert (second.status, second.is_stream, second.headers["content-type"]) == (200, True, "text/event-stream")
        chunks = second.chunks()
        assert await anext(chunks) == KEEP_ALIVE
        released.set()
        assert KEEP_ALIVE not in [await _last(first.chunks())]
        assert await _last(chunks) == b"data: 1\n\n"
        assert (first.outcome, second.outcome) == (200, 200)

    bench.run(work, stream(write))


def test_a_late_refusal_or_time_out_is_the_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.01)
    bench, released = Bench(), asyncio.Event()

    async def refuse(request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.json_response({"error": {"message": "no such parameter"}}, status=400, dumps=_on_lines)

    async def work() -> None:
        late = await begin(bench)
        released.set()
        chunks = [chunk async for chunk in late.chunks()]
        assert (last_error(chunks), late.outcome) == ("no such parameter", 400)
        released.clear()
        slow = await begin(bench, timeout_s=0.1)
        chunks = [chunk async for chunk in slow.chunks()]
        assert ("didn't finish its answer in 0.1 s" in last_error(chunks), slow.outcome) == (True, 504)

    bench.run(work, refuse)


def test_a_late_stream_whose_client_leaves_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.01)
    bench = Bench(requests_at_once=1)

    async def work() -> None:
        left = await begin(bench)
        left.close()
        slot = await bench.router.queues.take(_entered(bench))
        slot.free()
        assert left.outcome == 499

    bench.run(work, never)


def _entered(bench: Bench) -> Deployment:
    blue = deployment(bench.port)
    bench.router.queues.enter(blue)
    return blue


def _on_lines(body: object) -> str:
    return json.dumps(body, indent=1)


async def _last(chunks: AsyncIterator[bytes]) -> bytes:
    pieces = [chunk async for chunk in chunks]
    return pieces[-1]
