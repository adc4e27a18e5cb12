"""Time-outs that disconnect slow clients, so that none holds a connection for ever (slowloris)."""

import asyncio
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mafunzo.entrypoints.http.limits import Limits

logger = logging.getLogger(__name__)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, which cuts off a client that is slower than it may be, whatever it sends."""

    limits = Limits()

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
            self._deadline = min(
                self._deadline + len(data) / self.limits.slowest_bytes_per_s, self.loop.time() + self.limits.body_s
            )
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
        self._reading = self.loop.call_later(self.limits.reading_s, self._cut_off, "reading")

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
            self._deadline = self.loop.time() + {"head": self.limits.head_s, "body": self.limits.body_s}.get(
                phase, self.limits.linger_s
            )
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
            self._deadline = self.loop.time() + self.limits.body_s
        if self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._look)
        else:
            self._cut_off(self._phase)

    def _cut_off(self, phase: str) -> None:
        logger.info("Cut off %s, too slow at: %s", self.client, phase)
        self.transport.abort()


def server_options(limits: Limits) -> dict[str, Any]:
    """Return the options that keep a uvicorn server within these limits."""
    protocol = type("LimitedProtocol", (PatientProtocol,), {"limits": limits})
    return {"http": protocol, "ws": "none", "h11_max_incomplete_event_size": limits.head_bytes}
