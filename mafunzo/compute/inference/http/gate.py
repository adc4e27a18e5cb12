"""Who may ask a worker: its server, by the worker's own token, and by a name of loopback.

Every user of a machine reaches its loopback ports, and so does a page in a browser, by a name of its own that it lets resolve
to this machine (DNS rebinding).
"""

import hmac

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mafunzo.errors import Forbidden, MafunzoError, Unauthorized
from mafunzo.protocol.errors import error_body

NAMES = frozenset({"127.0.0.1", "localhost"})


class Gate:
    """An ASGI middleware. token: the bearer token that requests must have; without one of its own a worker asks for none."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._bearer = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer that refuses a request, or None."""
        if request.headers.get("host", "").partition(":")[0].lower() not in NAMES:
            return _refused(Forbidden(f"A worker answers under the names {', '.join(sorted(NAMES))} only."))
        authorization = request.headers.get("authorization", "").encode()
        if self._bearer is not None and not hmac.compare_digest(authorization, self._bearer):
            return _refused(Unauthorized("The worker's token is missing or wrong. Ask the server, which has it."))
        return None


def _refused(error: MafunzoError) -> Response:
    return JSONResponse(error_body(error), error.status)
