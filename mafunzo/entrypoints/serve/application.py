"""The application of the http port: OpenAI's dialect, the operator's routes, and what other ways in add."""

import dataclasses
import hmac
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

import mafunzo
from mafunzo.entrypoints.http.application import surround
from mafunzo.entrypoints.http.audit import REFUSED
from mafunzo.entrypoints.http.auth import bearer
from mafunzo.entrypoints.http.context import Context, context_of
from mafunzo.entrypoints.http.directory import digest
from mafunzo.entrypoints.http.endpoint_key import opened_endpoint
from mafunzo.entrypoints.openai import responses
from mafunzo.entrypoints.openai import routes as openai
from mafunzo.errors import MafunzoError, Unauthorized

METRICS = "/metrics"


def create_app(
    context: Context, beside: Sequence[APIRouter] = (), is_audited_beside: Callable[[Scope, int], bool] | None = None
) -> FastAPI:
    """Return the application of the http port, with routes of other ways in `beside` OpenAI's.

    is_audited_beside: which requests of those are logged for audit.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with context.router:
            yield

    def is_audited(scope: Scope, status: int) -> bool:
        is_refused_operator = str(scope["path"]).startswith(METRICS) and status in REFUSED
        if is_refused_operator or responses.is_audited(scope):
            return True
        return is_audited_beside is not None and is_audited_beside(scope, status)

    app = FastAPI(title="Mafunzo", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    surround(app, context, is_audited)
    app.add_exception_handler(MafunzoError, _refuse)
    app.add_api_route("/healthz", healthz)
    app.add_api_route(METRICS, metrics)
    app.add_api_route("/endpoints/{name}/mirror", mirror_report)
    for router in (responses.router, openai.router, *beside):  # the second has an answer for any other path
        app.include_router(router)
    return app


async def healthz(request: Request) -> Response:
    """Report that the server is up, and the last error of each loop."""
    loops = {loop.name: loop.error or "running" for loop in context_of(request).loops}
    return JSONResponse({"status": "ok", "pid": os.getpid(), "version": mafunzo.__version__, "loops": loops})


async def mirror_report(request: Request, name: str) -> Response:
    """Return how the answers of an endpoint's mirror compare, to whoever may ask the endpoint."""
    await opened_endpoint(request, name)
    report = await run_in_threadpool(context_of(request).mirror_report, name)
    return JSONResponse(dataclasses.asdict(report))


def metrics(request: Request) -> Response:
    """Return the metrics, to whoever has the operator's key."""
    context = context_of(request)
    if not hmac.compare_digest(digest(bearer(request.headers)), digest(context.operator_key)):
        raise Unauthorized("The key isn't the operator's; it is in operator.key in the home folder.")
    return Response(generate_latest(context.metrics), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, MafunzoError)
    return openai.error_response(error, context_of(request).limits)
