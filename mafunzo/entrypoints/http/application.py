"""What both ports' applications have around their routes: who may call them by which name, how much, and the audit log."""

from collections.abc import Callable

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from mafunzo.entrypoints.http.audit import Audit
from mafunzo.entrypoints.http.auth import KnownNames
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.limits import HeadLimits


def surround(
    app: FastAPI, context: Context, is_audited: Callable[[Scope, int], bool], *middleware: Callable[[ASGIApp], ASGIApp]
) -> None:
    """Put an application behind the server's names and limits, `middleware` of its own, and the audit log."""
    app.state.serving = context
    app.add_middleware(Audit, log=context.audit, is_audited=is_audited)
    for layer in middleware:
        app.add_middleware(layer)
    app.add_middleware(HeadLimits, limits=context.limits)
    app.add_middleware(KnownNames, names=context.names)
    app.add_exception_handler(ClientDisconnect, _drop)


async def _drop(_: Request, error: Exception) -> Response:
    """Answer a client that went away before its body was here: nobody hears it, and it is no fault of the server."""
    return Response(status_code=400)
