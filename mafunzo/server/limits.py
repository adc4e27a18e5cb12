"""What a client may ask of the server's patience and memory, on both ports."""

import asyncio
import logging
import re
from typing import Any

import h11
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

HEAD_LIMIT_BYTES = 64 * 2**10
HEADER_LIMIT = 128
HEAD_S = 15.0
"""How long a client may take for a request's line and headers, from its connection or its last answer on."""
BODY_S = 30.0
"""How far a client may fall behind the slowest rate at which a body may come."""
SLOWEST_BYTES_S = 1024
LINGER_S = 30.0
"""How long a client may go on sending a body once it has its answer, and how long its connection may take to close."""
READING_S = 60.0
"""How long a client may take no bytes of an answer that waits for it."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Limits:
    """Refuses requests with too many headers, and addresses with control characters, which no name here has."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["headers"]) > HEADER_LIMIT:
            told = f"The request has more than {HEADER_LIMIT} headers."
            await _refusal(431, "TooManyHeaders", told)(scope, receive, send)
        elif scope["type"] == "http" and (_CONTROL.search(scope["path"]) or b"%00" in scope["query_string"]):
            await _refusal(400, "InvalidUri", "The address has a control character.")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, which cuts off a client that is slower than it may be, whatever it sends."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._phase = ""
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        for timer in filter(None, (self._timer, self._reading)):
            timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came. Bytes of a body buy time."""
        super().data_received(data)
        if self._phase == "body":
            self._deadline = min(self._deadline + len(data) / SLOWEST_BYTES_S, self.loop.time() + BODY_S)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP. Whoever is still answering the request is told that the client has gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # an answer has begun, or may have no body
            self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the end of this one's body."""
        super().on_response_complete()
        if self.transport.is_closing():
            self.flow.resume_reading()  # else TLS never sees the client's end
        self._watch()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._reading = self.loop.call_later(READING_S, self._cut_off, "reading")

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()

    def _watch(self) -> None:
        """Start the clock of what the client does now, unless it runs."""
        phase = self._phase_now()
        if phase == self._phase:
            return
        self._phase = phase
        if self._timer is not None:
            self._timer.cancel()
        if phase:
            self._deadline = self.loop.time() + {"head": HEAD_S, "body": BODY_S}.get(phase, LINGER_S)
            self._timer = self.loop.call_at(self._deadline, self._look)

    def _phase_now(self) -> str:
        """Return what the client is to do; nothing while the server is to answer."""
        if self.transport.is_closing():
            return "closing"
        if self.conn.their_state is h11.IDLE:
            return "head"
        if self.conn.their_state is h11.SEND_BODY:
            return "body" if self.conn.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY) else "lingering"
        return ""

    def _look(self) -> None:
        """Cut the client off at its deadline, which may have moved; it isn't to blame while nobody reads what it sends."""
        if self._phase == "body" and self.flow.read_paused:
            self._deadline = self.loop.time() + BODY_S
        if self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._look)
        else:
            self._cut_off(self._phase)

    def _cut_off(self, phase: str) -> None:
        logger.info("Cut off %s, too slow at: %s", self.client, phase)
        self.transport.abort()


def server_options() -> dict[str, Any]:
    """Return what keeps a server of uvicorn's within these limits."""
    return {"http": PatientProtocol, "ws": "none", "h11_max_incomplete_event_size": HEAD_LIMIT_BYTES}


def _refusal(status: int, code: str, message: str) -> JSONResponse:
    """Return a refusal that the clients of every dialect can read."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status, {"x-ms-error-code": code})
