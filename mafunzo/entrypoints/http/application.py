"""What both ports' applications have around their routes: who may call them by which name, how much, and the audit log."""

import re
from collections.abc import Callable, Collection

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mafunzo.entrypoints.http.audit import Audit
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.limits import Limits
from mafunzo.entrypoints.http.request_id import RequestIds
from mafunzo.protocol.errors import refusal_body

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def surround(
    app: FastAPI, context: Context, is_audited: Callable[[Scope, int], bool], *middleware: Callable[[ASGIApp], ASGIApp]
) -> None:
    """Put an application behind the server's names and limits, `middleware` of its own, and the audit log."""
    app.state.serving = context
    app.add_middleware(Audit, log=context.audit, is_audited=is_audited)
    for layer in middleware:
        app.add_middleware(layer)
    app.add_middleware(Door, names=context.names, limits=context.limits)
    app.add_middleware(RequestIds)
    app.add_exception_handler(ClientDisconnect, _drop)


async def _drop(_: Request, error: Exception) -> Response:
    """Answer a client that went away before its body was here: nobody hears it, and it is no fault of the server."""
    return Response(status_code=400)


class Door:
    """An ASGI middleware: refuses requests by another name than the server's own, and with a head beyond the limits.

    By its own names only a page in a browser reaches it, not by one of the page's that it lets resolve to this machine (DNS
    rebinding). Addresses have no control characters, as no name here has.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], limits: Limits) -> None:
        self.app, self._names, self._limits = app, tuple(names), limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if not is_among(_host(scope), self._names):
            names = ", ".join(self._names)
            return _refused(421, "wrong_host", f"This server answers for {names} only: the Host header names another.")
        if len(scope["headers"]) > self._limits.headers:
            return _refused(431, "TooManyHeaders", f"The request has more than {self._limits.headers} headers.")
        if _CONTROL.search(scope["path"]) or b"%00" in scope["query_string"]:
            return _refused(400, "InvalidUri", "The address has a control character.")
        return None


def is_among(host: str, names: Collection[str]) -> bool:
    """Return whether a Host header, with or without a port, is one of `names`; there, an address stands without brackets."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, "0"
    is_ipv6 = name.startswith("[") and name.endswith("]")
    bare = name[1:-1] if is_ipv6 else name
    return bare.lower() in names and is_ipv6 == (":" in bare) and port.isdecimal()


def _host(scope: Scope) -> str:
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return hosts[0] if len(hosts) == 1 else ""


def _refused(status: int, code: str, message: str) -> JSONResponse:
    """Return a refusal that the clients of every dialect can read."""
    return JSONResponse(refusal_body(message, code), status, {"x-ms-error-code": code})
