"""The web application: what is asked where."""

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

import mafunzo
from mafunzo.errors import MafunzoError, RateLimitExceeded, Unauthorized
from mafunzo.server import (
    access,
    azure_asset,
    azure_job,
    azure_registry,
    azureml,
    blob,
    mlflow,
    openai,
    operator,
    scoring,
)
from mafunzo.server.audit import Audit
from mafunzo.server.auth import KnownNames, bearer
from mafunzo.server.azure_context import AzureContext, require_token, require_workspace
from mafunzo.server.context import Context, context_of
from mafunzo.server.directory import digest
from mafunzo.server.limits import HeadLimits
from mafunzo.wire.azureml.envelope import error_body


def create_app(context: Context) -> FastAPI:
    """Return the application of one server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with context.router:
            yield

    app = FastAPI(title="Mafunzo", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.serving = context
    app.add_middleware(Audit, log=context.audit, is_told=operator.is_told)
    app.add_middleware(HeadLimits, limits=context.limits)
    app.add_middleware(KnownNames, names=context.names)
    app.add_exception_handler(MafunzoError, _refuse)
    app.add_exception_handler(ClientDisconnect, _drop)
    app.add_api_route("/healthz", healthz)
    app.add_api_route("/metrics", metrics)
    app.include_router(openai.router)
    app.include_router(mlflow.router)
    return app


def create_azure_app(context: AzureContext) -> FastAPI:
    """Return the application of the https port, which speaks Azure's dialects."""
    app = FastAPI(title="Mafunzo for the Azure SDK", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context, app.state.serving = context, context.serving
    app.add_middleware(Audit, log=context.serving.audit, is_told=access.is_told)
    app.add_middleware(azureml.NormalPaths)
    app.add_middleware(HeadLimits, limits=context.serving.limits)
    app.add_middleware(KnownNames, names=context.serving.names)
    app.add_exception_handler(MafunzoError, _refuse_on_azure)
    app.add_exception_handler(ClientDisconnect, _drop)
    app.include_router(azureml.public)
    app.include_router(azure_registry.public)
    app.include_router(blob.router)
    app.include_router(scoring.router)
    app.include_router(mlflow.azure_router, dependencies=[Depends(require_token), Depends(require_workspace)])
    app.include_router(mlflow.router)
    app.include_router(azure_job.public)
    # the last one refuses what nobody has taken
    for router in (azure_asset.router, azure_job.router, azure_registry.router, azureml.router):
        app.include_router(router, dependencies=[Depends(require_token), Depends(require_workspace)])
    return app


async def healthz(request: Request) -> Response:
    """Say that the server is up, and what its loops met last."""
    loops = {loop.name: loop.error or "running" for loop in context_of(request).loops}
    return JSONResponse({"status": "ok", "pid": os.getpid(), "version": mafunzo.__version__, "loops": loops})


def metrics(request: Request) -> Response:
    """Return the metrics, to whoever has the operator's key."""
    context = context_of(request)
    if not hmac.compare_digest(digest(bearer(request.headers)), digest(context.operator_key)):
        raise Unauthorized("The key isn't the operator's; it is in operator.key in the home folder.")
    return Response(context.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, MafunzoError)
    return openai.error_response(error, context_of(request).limits)


async def _refuse_on_azure(request: Request, error: Exception) -> Response:
    assert isinstance(error, MafunzoError)
    retry_after = str(context_of(request).limits.retry_after_s)
    headers = {"Retry-After": retry_after} if isinstance(error, RateLimitExceeded) else {}
    return JSONResponse(error_body(error), error.status, headers)


async def _drop(_: Request, error: Exception) -> Response:
    """Answer a client that went away before its body was here: nobody hears it, and it is no fault of the server."""
    return Response(status_code=400)
