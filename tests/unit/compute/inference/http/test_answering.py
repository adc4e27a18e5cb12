"""A request under way is measured, and cancelled when nobody waits for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mafunzo.compute.inference.engine import GREEDY
from mafunzo.compute.inference.http.answering import Answering, Disconnected, whole_replies
from mafunzo.compute.inference.request import FinishReason, GenerationRequest
from mafunzo.errors import MafunzoError


class Connection:
    """A client that is there until it is told to leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}


def outcome(service: Any, name: str) -> float:
    return float(service.metrics.requests.labels(name)._value.get())


def change(service: Any, name: str, work: Callable[[], Awaitable[None]]) -> float:
    before = outcome(service, name)
    asyncio.run(work())
    return outcome(service, name) - before


def test_whole_replies_come_in_order_and_are_counted(service):
    async def work() -> None:
        requests = [GenerationRequest((5, 6, n), 3, GREEDY) for n in (7, 8)]
        replies = await whole_replies(Connection(), [Answering(service, request) for request in requests])
        assert replies == [service.loaded.engine.submit(request).reply() for request in requests]

    assert change(service, FinishReason.LENGTH, work) == 2


def test_a_client_that_leaves_cancels_its_request(service):
    async def work() -> None:
        connection = Connection()
        answering = Answering(service, GenerationRequest((5, 6, 7), 1900, GREEDY, ignore_eos=True))
        connection.left.set()
        with pytest.raises(Disconnected):
            await whole_replies(connection, [answering])
        answering.cancel()  # a second time changes nothing

    assert change(service, FinishReason.CANCELED, work) == 1


def test_a_request_that_fails_raises_its_error_and_cancels_the_others(service, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    async def work() -> None:
        monkeypatch.setattr(service.loaded.engine.executor, "forward", fail)
        answering = Answering(service, GenerationRequest((5, 6, 7), 2, GREEDY))
        with pytest.raises(MafunzoError, match="broken"):
            await whole_replies(Connection(), [answering])

    assert change(service, "error", work) == 1


def test_a_reply_that_is_complete_is_not_cancelled(service):
    async def work() -> None:
        answering = Answering(service, GenerationRequest((5, 6), 1, GREEDY))
        async for _ in answering.events():
            pass
        answering.cancel()

    assert change(service, FinishReason.CANCELED, work) == 0
