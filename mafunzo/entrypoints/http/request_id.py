"""The id of a request: the client's own `x-request-id` or a new one, in the answer, in the log, and passed on to the worker.

A refused request is logged here, so that a user who tells its id finds out why; one that reached a deployment is logged by the
router, which knows which.
"""

import logging
import re
import secrets
import time
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mafunzo.errors import FailedError
from mafunzo.protocol.errors import refusal_body

logger = logging.getLogger(__name__)

HEADER = "x-request-id"
LONGEST_PATH = 256
_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
_STATE, _ROUTED = "request_id", "is_routed"


class RequestIds:
    """An ASGI middleware, the outermost, so that every answer has an id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_s = time.monotonic()
        state = scope.setdefault("state", {})
        state[_STATE] = request_id = _id_of(scope)
        has_begun = False

        async def watch(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                MutableHeaders(scope=message)[HEADER] = request_id
                if message["status"] >= 400 and not state.get(_ROUTED):
                    path, seconds = quote(scope["path"][:LONGEST_PATH]), time.monotonic() - began_s
                    logger.info(
                        "%s %s %s %.3f s, request %s", scope["method"], path, message["status"], seconds, request_id
                    )
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:  # a fault of ours, which is logged further out: that answer would have neither id nor JSON
            if not has_begun:
                logger.error("Failed at request %s; what follows says why", request_id)
                await _fault(request_id)(scope, receive, watch)
            raise


def request_id(request: Request) -> str:
    """Return the id of a request."""
    return str(getattr(request.state, _STATE, ""))


def mark_routed(request: Request) -> None:
    """Say that the router logs a request."""
    setattr(request.state, _ROUTED, True)


def _fault(request_id: str) -> JSONResponse:
    """Return the answer to a request that broke the server's own code, which the clients of every dialect can read."""
    message = f"The server failed at this request. Its log says why, at request {request_id}."
    return JSONResponse(refusal_body(message, FailedError.code, "server_error"), FailedError.status)


def _id_of(scope: Scope) -> str:
    """Return the client's id where it is one, else a new one: what it sends comes into the log and into headers."""
    ids = [value.decode("latin-1") for name, value in scope["headers"] if name == HEADER.encode()]
    return ids[0] if len(ids) == 1 and _ID.fullmatch(ids[0]) else f"req_{secrets.token_hex(12)}"
