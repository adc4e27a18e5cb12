"""Copies of requests, against workers that are web applications of this process: what the client gets, and what is compared."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.control.serving.mirror import is_sampled, text_of
from mafunzo.control.serving.router import Router
from mafunzo.entities.endpoint import DeploymentStatus, Endpoint
from mafunzo.entities.mirror import Comparison
from tests.unit.control.serving.test_router import PATH, Worker, ask, break_off, deployment, never, served


def says(text: str) -> Worker:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})

    return answer


def streams(*pieces: str) -> Worker:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            event = json.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}).encode()
            await response.write(b"data: " + event + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    return answer


class Bench:
    """A router over the deployments blue, which has the traffic, and green, its mirror."""

    def __init__(self, percent: int = 100, draw: float = 0.5) -> None:
        self.endpoint = Endpoint("chat", {"blue": 100}, mirror_percent={"green": percent})
        self.comparisons: list[Comparison] = []
        self.draw = draw
        self.green: dict[str, Any] = {}

    def run(self, live: Worker, mirror: Worker, work: Callable[[Callable[[], Any]], Awaitable[None]]) -> None:
        async def around() -> None:
            self.router = Router(
                RequestMetrics(CollectorRegistry()),
                10,
                draw=lambda: self.draw,
                requests_at_once=1,
                record=lambda endpoint, comparison: self.comparisons.append(comparison),
            )
            async with served(live) as blue, served(mirror) as green, self.router:
                more = {"request_timeout_s": 3600.0}
                records = [deployment(blue.port, **more), deployment(green.port, "green", **more | self.green)]
                await work(lambda: self.router.open(self.endpoint, records, None, "/asked"))

        asyncio.run(around())

    async def until_compared(self, count: int = 1) -> None:
        while len(self.comparisons) < count:
            await asyncio.sleep(0)


def test_a_copy_goes_to_the_mirror_and_the_client_gets_the_live_answer() -> None:
    bench = Bench()

    async def work(opened: Callable[[], Any]) -> None:
        assert b"four" in await ask(opened())
        await bench.until_compared()

    bench.run(says("it is four"), says("it is for"), work)
    [one] = bench.comparisons
    assert (one.live, one.mirror, one.is_equal, one.same_characters) == ("blue", "green", False, 8)
    assert (one.live_characters, one.mirror_characters, one.live_status, one.mirror_status) == (10, 9, 200, 200)


def test_streams_are_compared_by_what_they_say_not_by_their_pieces() -> None:
    bench = Bench()

    async def work(opened: Callable[[], Any]) -> None:
        with opened() as exchange:
            answer = await exchange.ask(PATH, b'{"stream": true, "temperature": 0}', {}, is_stream=True)
            assert len([chunk async for chunk in answer.chunks()]) >= 1
        await bench.until_compared()

    bench.run(streams("it ", "is ", "four"), streams("it is", " four"), work)
    [one] = bench.comparisons
    assert (one.is_equal, one.is_sampled, one.live_characters) == (True, False, 10)


def test_a_mirror_that_hangs_delays_nobody_and_gets_no_more_copies_than_it_can_take() -> None:
    bench = Bench()

    async def work(opened: Callable[[], Any]) -> None:
        for _ in range(3):
            assert b"four" in await ask(opened())
        loads = bench.router.queues.loads
        assert loads.requests(deployment(1, "green")) == 1

    bench.run(says("four"), never, work)
    assert bench.comparisons == []


def test_a_mirror_that_breaks_is_a_comparison_and_nothing_to_the_client() -> None:
    bench = Bench()

    async def work(opened: Callable[[], Any]) -> None:
        assert b"four" in await ask(opened())
        await bench.until_compared()
        assert bench.router.queues.loads.busy(deployment(1, "green")) == 0

    bench.run(says("four"), break_off, work)
    [one] = bench.comparisons
    assert (one.live_status, one.mirror_status, one.mirror_characters) == (200, 502, 0)


@pytest.mark.parametrize(
    ("percent", "draw", "green"),
    [
        pytest.param(10, 0.1, {}, id="another share of the requests"),
        pytest.param(100, 0.5, {"status": DeploymentStatus.WAITING}, id="no worker"),
    ],
)
def test_a_request_that_is_not_mirrored_goes_to_the_live_deployment_only(
    percent: int, draw: float, green: dict[str, Any]
) -> None:
    bench = Bench(percent, draw)
    bench.green = green
    copies: list[str] = []

    async def mirror(request: web.Request) -> web.StreamResponse:
        copies.append(await request.text())
        return web.Response()

    async def work(opened: Callable[[], Any]) -> None:
        assert b"four" in await ask(opened())

    bench.run(says("four"), mirror, work)
    assert copies == []


def test_a_request_that_the_live_deployment_does_not_answer_is_not_compared() -> None:
    bench = Bench()

    async def work(opened: Callable[[], Any]) -> None:
        with pytest.raises(Exception, match="broke off"):
            await ask(opened())

    bench.run(break_off, says("four"), work)
    assert bench.comparisons == []


def test_an_answer_of_the_mirror_itself_is_not_compared_with_itself() -> None:
    bench = Bench()
    bench.endpoint = Endpoint("chat", {"green": 100}, mirror_percent={"green": 100})

    async def work(opened: Callable[[], Any]) -> None:
        assert b"four" in await ask(opened())

    bench.run(says("one"), says("four"), work)
    assert bench.comparisons == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"temperature": 0}', False),
        (b'{"seed": 7, "temperature": 1}', False),
        (b"{}", True),
        (b'{"temperature": 0.5}', True),
        (b"[1]", True),
        (b"{", True),
    ],
)
def test_a_request_says_whether_its_answer_may_vary(body: bytes, expected: bool) -> None:
    assert is_sampled(body) is expected


def test_what_an_answer_says_is_its_texts_and_its_calls() -> None:
    call = {"function": {"name": "add", "arguments": "{}"}}
    whole = {"choices": [{"index": 0, "message": {"content": "a", "tool_calls": [call]}}, {"index": 1, "text": "b"}]}
    assert text_of(json.dumps(whole).encode()) == "a\n{}\nadd\nb"
    parts = [{"content": "a"}, {"tool_calls": [{"index": 0, **call}]}]
    events = [json.dumps({"choices": [{"index": 0, "delta": part}]}) for part in parts]
    events.append(json.dumps({"choices": [{"index": 1, "delta": {"content": "b"}}]}))
    assert text_of("".join(f"data: {event}\n\n" for event in events).encode()) == "a\n{}\nadd\nb"


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[]", b'{"choices": 3}', b'{"choices": [3, {"message": 4}]}'])
def test_what_says_nothing_is_an_empty_text(content: bytes) -> None:
    assert text_of(content) == ""
