"""A request under way in the engine, awaited by a coroutine; cancelled when its client disconnects."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request

from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.request import Delta, Event, Failed, Finished, FinishReason, GenerationRequest, Reply


class Disconnected(Exception):
    """The client disconnected."""


class Answering:
    """One request under way in the engine, as events that a coroutine awaits."""

    def __init__(self, service: Service, request: GenerationRequest) -> None:
        self._metrics = service.metrics
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._started_s = time.perf_counter()
        self._has_begun = self._is_over = False
        loop = asyncio.get_running_loop()

        def hand_over(event: Event) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._stream = service.loaded.engine.submit(request, hand_over, service.loaded.tokenizer)

    async def events(self) -> AsyncIterator[Event]:
        """Yield all events; raises the error of a request that failed."""
        while not self._is_over:
            event = await self._events.get()
            self._measure(event)
            if isinstance(event, Failed):
                raise event.error
            yield event

    def cancel(self) -> None:
        """Cancel the request in the engine; idempotent, and without effect once the answer is complete."""
        if not self._is_over:
            self._is_over = True
            self._metrics.requests.labels(FinishReason.CANCELED).inc()
            self._stream.cancel()

    def _measure(self, event: Event) -> None:
        seconds = time.perf_counter() - self._started_s
        if isinstance(event, Delta) and not self._has_begun:
            self._has_begun = True
            self._metrics.first_token_s.observe(seconds)
        if isinstance(event, Finished):
            self._metrics.prompt_tokens.inc(event.prompt_tokens)
            self._metrics.cached_prompt_tokens.inc(event.cached_tokens)
            self._metrics.generated_tokens.inc(event.completion_tokens)
        if isinstance(event, Finished | Failed):
            self._is_over = True
            self._metrics.request_s.observe(seconds)
            self._metrics.requests.labels(event.reason if isinstance(event, Finished) else "error").inc()


async def merged(answerings: Sequence[Answering]) -> AsyncIterator[tuple[int, Event]]:
    """Yield the events of several requests as they come, each with the index of its request."""
    streams = [answering.events() for answering in answerings]
    tasks = {_next(events): (index, events) for index, events in enumerate(streams)}
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index, events = tasks.pop(task)
                event = task.result()
                if event is not None:
                    tasks[_next(events)] = (index, events)
                    yield index, event
    finally:
        for task in tasks:
            task.cancel()


def _next(events: AsyncIterator[Event]) -> asyncio.Task[Event | None]:
    async def step() -> Event | None:
        return await anext(events, None)

    return asyncio.ensure_future(step())


async def whole_replies(request: Request, answerings: Sequence[Answering]) -> list[Reply]:
    """Wait for whole replies; cancel them if the client disconnects or one of them fails."""
    replies: asyncio.Future[Any] = asyncio.gather(*(_collect(answering) for answering in answerings))
    disconnect: asyncio.Future[Any] = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({replies, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not replies.done():
            replies.cancel()
            raise Disconnected
        return list(replies.result())
    finally:
        disconnect.cancel()
        for answering in answerings:
            answering.cancel()


async def _collect(answering: Answering) -> Reply:
    reply = Reply()
    async for event in answering.events():
        reply.add(event)
    return reply


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
