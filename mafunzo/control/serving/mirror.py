"""Mirrored traffic (shadowing): a copy of a request goes to another deployment too, whose answer is only compared.

The client waits for nothing of it: the copy goes when the mirror's worker has a free place, else not at all. Whatever it does
is caught, and told in the log only.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from mafunzo.control.serving.answer import Answer, PassedAnswer
from mafunzo.control.serving.queue import Queues, Slot
from mafunzo.control.serving.traffic import live_workers
from mafunzo.entities.endpoint import Deployment
from mafunzo.entities.mirror import Comparison
from mafunzo.errors import MafunzoError, WorkerFailed

logger = logging.getLogger(__name__)

Forward = Callable[[Deployment, str, bytes, Mapping[str, str], Slot], Awaitable[Answer]]
Record = Callable[[str, Comparison], None]
"""Keeps a comparison of an endpoint; called in a thread."""


@dataclass(frozen=True)
class Answered:
    """How one deployment answered: the HTTP status, what it said, and the seconds until its end."""

    status: int
    text: str
    seconds: float


class Mirror:
    """Sends the copies of one router, and compares the answers."""

    def __init__(self, forward: Forward, queues: Queues, record: Record) -> None:
        self._forward, self._queues, self._record = forward, queues, record
        self._tasks: set[asyncio.Task[Any]] = set()

    def copy(self, deployment: Deployment, path: str, body: bytes, headers: Mapping[str, str]) -> "Copy | None":
        """Send a copy of a request to a deployment; None where none of its workers has a place for it now.

        An idle deployment is woken by it.
        """
        self._queues.loads.enter(deployment)
        workers = live_workers(deployment.workers)
        slot = self._queues.take_now(workers) if workers else None
        if slot is None:
            self._queues.loads.leave(deployment)
            return None
        answering = self._started(self._answered(slot, path, body, headers))
        answering.add_done_callback(lambda _: self._queues.loads.leave(deployment))
        return Copy(self, deployment, body, answering)

    def compare(self, copy: "Copy", live_name: str, live: Answered) -> None:
        """Compare the answers once the mirror has its own, behind the client's back."""
        self._started(self._compared(copy, live_name, live))

    async def close(self) -> None:
        """End all that is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _started(self, work: Any) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop itself keeps no reference
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answered(self, slot: Slot, path: str, body: bytes, headers: Mapping[str, str]) -> Answered:
        began_s, worker = time.monotonic(), slot.worker
        status, content = WorkerFailed.status, b""
        try:
            async with asyncio.timeout(worker.request_timeout_s):
                answer = await self._forward(worker, path, body, headers, slot)
                with closing(answer):
                    content = await _content(answer)
                status = answer.outcome
        except MafunzoError as error:
            status = error.status
        except Exception:  # whatever it is, the client has its answer
            logger.warning("The mirror %s/%s didn't answer", worker.endpoint, worker.name, exc_info=True)
        finally:
            slot.free()
        return Answered(status, text_of(content), time.monotonic() - began_s)

    async def _compared(self, copy: "Copy", live_name: str, live: Answered) -> None:
        mirror, deployment = await copy.answering, copy.deployment
        if deployment.name == live_name:
            return
        comparison = compared(live_name, live, deployment.name, mirror, is_sampled(copy.body))
        try:
            await asyncio.to_thread(self._record, deployment.endpoint, comparison)
        except OSError as error:
            logger.warning("A comparison with %s/%s wasn't kept: %s", deployment.endpoint, deployment.name, error)


class Copy:
    """A copy of a request under way, and the answer that it is compared with."""

    def __init__(
        self, mirror: Mirror, deployment: Deployment, body: bytes, answering: "asyncio.Task[Answered]"
    ) -> None:
        self.deployment, self.body, self.answering = deployment, body, answering
        self._mirror, self._began_s = mirror, time.monotonic()

    def watched(self, answer: Answer, live_name: Callable[[], str]) -> Answer:
        """Return the client's answer, which is compared with the mirror's when it ends."""
        return _Watched(answer, lambda status, content: self._compare(live_name(), status, content))

    def abandon(self) -> None:
        """End the copy: the client has no answer to compare it with."""
        self.answering.cancel()

    def _compare(self, live_name: str, status: int, content: bytes) -> None:
        live = Answered(status, text_of(content), time.monotonic() - self._began_s)
        self._mirror.compare(self, live_name, live)


class _Watched(PassedAnswer):
    """An answer whose content is looked at when it has passed."""

    def __init__(self, answer: Answer, watch: Callable[[int, bytes], None]) -> None:
        super().__init__(answer)
        self._watch = watch

    async def read(self) -> bytes:
        content = await self._answer.read()
        self._watch(self._answer.outcome, content)
        return content

    async def chunks(self) -> AsyncIterator[bytes]:
        content = bytearray()
        async for chunk in self._answer.chunks():
            content += chunk
            yield chunk
        self._watch(self._answer.outcome, bytes(content))


def compared(live_name: str, live: Answered, mirror_name: str, mirror: Answered, is_sampled: bool) -> Comparison:
    """Return the comparison of two answers to one request."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(live.text, mirror.text, strict=False))
    return Comparison(
        at=time.time(),
        live=live_name,
        mirror=mirror_name,
        is_sampled=is_sampled,
        is_equal=live.text == mirror.text,
        same_characters=sum(1 for _ in same),
        live_status=live.status,
        mirror_status=mirror.status,
        live_characters=len(live.text),
        mirror_characters=len(mirror.text),
        live_s=live.seconds,
        mirror_s=mirror.seconds,
    )


def is_sampled(body: bytes) -> bool:
    """Return whether a request lets its answer vary: with no temperature of 0, and no seed."""
    try:
        content = json.loads(body)
    except ValueError:
        return True
    if not isinstance(content, Mapping):
        return True
    return content.get("temperature") != 0 and content.get("seed") is None


def text_of(content: bytes) -> str:
    """Return what an answer says, with its calls of tools, whole or as a stream; empty for what says nothing."""
    texts: dict[tuple[int, str], str] = {}
    for body in _bodies(content):
        choices = body.get("choices") if isinstance(body, Mapping) else None
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, Mapping):
                _add(texts, choice)
    return "\n".join(texts[key] for key in sorted(texts))


def _add(texts: dict[tuple[int, str], str], choice: Mapping[str, Any]) -> None:
    index = choice.get("index")
    number = index if isinstance(index, int) else 0
    message = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
    if not isinstance(message, Mapping):
        return
    calls = message.get("tool_calls")
    said = {"content": message.get("content"), "reasoning": message.get("reasoning_content")}
    for position, call in enumerate(calls if isinstance(calls, list) else []):
        function = call.get("function") if isinstance(call, Mapping) else None
        at = call.get("index", position) if isinstance(call, Mapping) else position
        for name in ("name", "arguments"):
            said[f"tool {at} {name}"] = function.get(name) if isinstance(function, Mapping) else None
    for name, text in said.items():
        if isinstance(text, str):
            texts[number, name] = texts.get((number, name), "") + text


def _bodies(content: bytes) -> list[Any]:
    lines = [content]
    if content.lstrip().startswith((b"data:", b":")):
        events = (line for line in content.splitlines() if line.startswith(b"data: {"))
        lines = [line.removeprefix(b"data: ") for line in events]
    bodies = []
    for line in lines:
        try:
            bodies.append(json.loads(line))
        except ValueError:
            continue  # what isn't JSON says nothing
    return bodies


async def _content(answer: Answer) -> bytes:
    if answer.is_stream:
        return b"".join([chunk async for chunk in answer.chunks()])
    return await answer.read()
