"""A worker's answer on its way to a client: whole, as a stream while it is written, or as one that waits for the worker."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Protocol

import aiohttp

from mafunzo.control.serving.queue import Slot
from mafunzo.errors import ClientGone, FailedError, MafunzoError, TimedOut, WorkerFailed
from mafunzo.protocol.errors import error_body
from mafunzo.protocol.stream import event

KEEP_ALIVE_S = 15.0
"""A stream is never silent for longer: proxies and clients take a silent connection for a dead one (nginx: 60 s)."""
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment of server-sent events, which clients skip."""
EVENT_END = b"\n\n"
ERROR_EVENT = b'data: {"error"'
"""How a worker's error in its own stream begins. No model can write it: quotes are escaped in JSON."""
EVENT_STREAM = "text/event-stream"


class Answer(Protocol):
    """An answer whose body is read while it comes. `close` ends the worker's part of it as well.

    outcome: the HTTP status that says how it went, also where a stream had another one by then.
    """

    status: int
    outcome: int
    headers: Mapping[str, str]

    @property
    def is_stream(self) -> bool:
        """Whether the body comes in server-sent events."""

    async def read(self) -> bytes:
        """Return the whole body of an answer that is no stream."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. A stream has its status already: what goes wrong then is its last event."""

    def close(self) -> None:
        """End the worker's part, and free its place; idempotent."""


class PassedAnswer:
    """Another's answer, passed on; whoever looks at its body as it passes adds `read` and `chunks`."""

    def __init__(self, answer: Answer) -> None:
        self.status, self.headers = answer.status, answer.headers
        self._answer = answer

    @property
    def outcome(self) -> int:
        return self._answer.outcome

    @outcome.setter
    def outcome(self, status: int) -> None:
        self._answer.outcome = status

    @property
    def is_stream(self) -> bool:
        return self._answer.is_stream

    def close(self) -> None:
        self._answer.close()


class WorkerAnswer:
    """What a worker answers. timeout_s: how long it may pause in a stream."""

    def __init__(
        self, response: aiohttp.ClientResponse, headers: Mapping[str, str], timeout_s: float, slot: Slot
    ) -> None:
        self.status, self.headers = response.status, headers
        self.outcome = ClientGone.status if self.is_stream else response.status  # until the stream's end says better
        self._response, self._timeout_s, self._slot = response, timeout_s, slot
        self._content = b""

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith(EVENT_STREAM)

    async def fetch(self) -> None:
        """Take in the whole body; raises aiohttp's errors where it breaks off."""
        try:
            self._content = await self._response.read()
        finally:
            self.close()

    async def begin(self) -> None:
        """Take in a stream until its first token; raises aiohttp's errors where it breaks off before.

        A worker sends the role at once, before it has a place in the batch: until there is more, nothing is answered yet.
        """
        try:
            while not _says_something(self._content) and (chunk := await self._response.content.readany()):
                self._content += chunk
        except BaseException:
            self.close()
            raise

    async def read(self) -> bytes:
        return self._content

    async def chunks(self) -> AsyncIterator[bytes]:
        tail, status = EVENT_END, self.status
        try:
            async for chunk in self._pieces():
                if chunk is None:
                    if tail.endswith(EVENT_END):  # never in the middle of an event
                        yield KEEP_ALIVE
                    continue
                if ERROR_EVENT in tail + chunk:
                    status = FailedError.status
                tail = (tail + chunk)[-len(ERROR_EVENT) :]
                yield chunk
            self.outcome = status
        except MafunzoError as error:
            self.outcome = error.status
            yield (b"" if tail.endswith(EVENT_END) else EVENT_END) + event(error_body(error))
        finally:
            self.close()

    def close(self) -> None:
        self._response.close()
        self._slot.free()

    async def _pieces(self) -> AsyncIterator[bytes | None]:
        """Yield what comes, and None where nothing came for a while. Only a pause is limited: a stream lasts while it flows."""
        silent_s = 0.0
        if self._content:
            yield self._content
        while True:
            pause_s = min(KEEP_ALIVE_S, self._timeout_s - silent_s)
            try:
                async with asyncio.timeout(pause_s):
                    chunk = await self._response.content.readany()
            except TimeoutError as error:
                silent_s += pause_s
                if silent_s >= self._timeout_s:
                    raise TimedOut(
                        f"The model wrote nothing for {self._timeout_s:g} s (request_timeout), so it was cut off. Try again."
                    ) from error
                yield None
                continue
            except aiohttp.ClientError as error:
                raise WorkerFailed(f"The worker broke off its answer ({type(error).__name__}). Try again.") from error
            if not chunk:
                return
            silent_s = 0.0
            yield chunk


class LateAnswer:
    """A stream that begins before the worker's answer does: it waits in a queue, or for a worker that starts again.

    Its status is 200 by then, so that a refusal is its last event.
    """

    status = 200

    def __init__(self, asking: "asyncio.Task[Answer]") -> None:
        self.headers: Mapping[str, str] = {"content-type": EVENT_STREAM, "cache-control": "no-cache"}
        self.outcome = ClientGone.status
        self._asking = asking

    @classmethod
    async def unless_soon(cls, asking: Coroutine[Any, Any, Answer]) -> Answer:
        """Return the answer when it begins within `KEEP_ALIVE_S`, else a stream that waits for it."""
        task = asyncio.ensure_future(asking)
        try:
            done, _ = await asyncio.wait({task}, timeout=KEEP_ALIVE_S)
        except BaseException:
            _give_up(task)
            raise
        return task.result() if done else cls(task)

    @property
    def is_stream(self) -> bool:
        return True

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            while not self._asking.done():
                yield KEEP_ALIVE
                await asyncio.wait({self._asking}, timeout=KEEP_ALIVE_S)
            answer = self._asking.result()
            if answer.is_stream:
                async for chunk in answer.chunks():
                    yield chunk
            else:
                yield b"data: " + b" ".join((await answer.read()).splitlines()) + EVENT_END
            self.outcome = answer.outcome
        except MafunzoError as error:
            self.outcome = error.status
            yield event(error_body(error))
        finally:
            self.close()

    def close(self) -> None:
        _give_up(self._asking)


def _says_something(events: bytes) -> bool:
    """Return whether the first events of a stream hold more than roles; what can't be read counts as more."""
    for line in events.split(EVENT_END)[:-1]:
        try:
            choices = json.loads(line.removeprefix(b"data: "))["choices"]
            if any(_is_more_than_role(choice) for choice in choices):
                return True
        except (ValueError, TypeError, KeyError, AttributeError):
            return True
    return False


def _is_more_than_role(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    is_text = any(value for name, value in delta.items() if name != "role")
    return bool(is_text or choice.get("text") or choice.get("finish_reason"))


def _give_up(asking: "asyncio.Task[Answer]") -> None:
    """End a request that nobody waits for any more, and the answer that it may have by now."""
    if not asking.done():
        asking.cancel()
    elif not asking.cancelled() and asking.exception() is None:
        asking.result().close()
