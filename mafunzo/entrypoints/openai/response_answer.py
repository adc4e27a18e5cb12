"""A worker's answer to a chat completion, on its way to a client of the Responses API."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from mafunzo.entrypoints.http.forwarding import Answer
from mafunzo.errors import MafunzoError, WorkerFailed
from mafunzo.protocol.errors import error_body
from mafunzo.protocol.response_stream import EventReader, ResponseStream, named_event, refusal, whole_response

OK = 200
DATA, END = b"data: ", b"[DONE]"
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)
"""What reading an answer raises that is no chat completion."""
Keep = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Stores a whole response, if it is to be."""


class ResponseAnswer:
    """An answer whose body is a response, or its events. It is kept before its client is told that it is whole."""

    def __init__(self, answer: Answer, stream: ResponseStream, keep: Keep) -> None:
        self.status, self.headers = answer.status, answer.headers
        self._answer, self._stream, self._keep = answer, stream, keep
        self._failure: MafunzoError | None = None

    @property
    def outcome(self) -> int:
        return self._answer.outcome if self._failure is None else self._failure.status

    @outcome.setter
    def outcome(self, status: int) -> None:
        self._answer.outcome = status

    @property
    def is_stream(self) -> bool:
        return self._answer.is_stream

    def close(self) -> None:
        self._answer.close()

    async def read(self) -> bytes:
        content = await self._answer.read()
        try:
            body = json.loads(content)
            if self.status != OK:
                return json.dumps(refusal(body)).encode()
            response = whole_response(self._stream, body, int(time.time()))
        except UNREADABLE as error:
            raise _unreadable(self.status) from error
        await self._keep(response)
        return json.dumps(response, ensure_ascii=False).encode()

    async def chunks(self) -> AsyncIterator[bytes]:
        reader, is_over = EventReader(), False
        async for piece in self._answer.chunks():
            for text in reader.add(piece):
                if not text.startswith(DATA):
                    yield text + b"\n\n"  # a comment, which keeps the connection alive
                elif not is_over:
                    events, is_over = await self._translated(text.removeprefix(DATA))
                    if events:
                        yield b"".join(map(named_event, events))
        if not is_over:
            self._failure = WorkerFailed("The worker's answer ended before it was whole. Try again.")
            yield b"".join(map(named_event, self._stream.fail(error_body(self._failure)["error"])))

    async def _translated(self, data: bytes) -> tuple[list[dict[str, Any]], bool]:
        """Return the events of one of the worker's, and whether they are the last."""
        try:
            events = [] if self._stream.has_begun else self._stream.begin()
            if data == END:
                events += self._stream.close(int(time.time()))
                await self._keep(self._stream.response)
                return [*events, self._stream.end()], True
            body = json.loads(data)
            if error := body.get("error"):
                return [*events, *self._stream.fail(error)], True
            return events + self._stream.add(body), False
        except MafunzoError as error:
            self._failure = error
        except UNREADABLE:
            self._failure = _unreadable(self.status)
        return self._stream.fail(error_body(self._failure)["error"]), True


def _unreadable(status: int) -> WorkerFailed:
    return WorkerFailed(f"The worker answered with the status {status} and no chat completion. Its log says why.")
