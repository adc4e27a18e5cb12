"""The ASGI application of the https port, which speaks Azure's dialects: its routes, in the order in which paths are matched.

Routes are matched by path, whatever the api-version.
"""

from collections.abc import Sequence

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mafunzo.entrypoints.azure import access
from mafunzo.entrypoints.azure.blob import routes as blob
from mafunzo.entrypoints.azure.context import AzureContext, require_token, require_workspace
from mafunzo.entrypoints.azure.routes import (
    asset,
    batch,
    cloud,
    compute,
    datastore,
    endpoint,
    job,
    mlflow,
    operation,
    refused,
    registry,
    scoring,
    workspace,
)
from mafunzo.entrypoints.azure.wire.envelope import error_body, plain_path
from mafunzo.entrypoints.http.application import surround
from mafunzo.entrypoints.http.context import context_of
from mafunzo.entrypoints.http.limits import retry_after
from mafunzo.errors import MafunzoError

PUBLIC = (cloud.public, registry.public, job.public, blob.router, scoring.router)
"""Routes without a token, or with credentials of their own."""
OF_CALLERS = (
    asset.router,
    job.router,
    registry.router,
    workspace.router,
    compute.router,
    endpoint.router,
    batch.router,
    operation.router,
    datastore.router,
    refused.router,
)
"""Routes that need a token. The last one refuses the paths that no other matches."""


def create_azure_app(context: AzureContext, beside: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the https port's application; routes of other ways in, `beside`, come before the one that refuses the rest."""
    app = FastAPI(title="Mafunzo for the Azure SDK", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    surround(app, context.serving, access.is_audited, NormalPaths)
    app.add_exception_handler(MafunzoError, _refuse)
    of_callers = [Depends(require_token), Depends(require_workspace)]
    for router in PUBLIC:
        app.include_router(router)
    app.include_router(mlflow.router, dependencies=of_callers)  # MLflow's own routes would take its paths
    for router in beside:
        app.include_router(router)
    for router in OF_CALLERS:
        app.include_router(router, dependencies=of_callers)
    return app


class NormalPaths:
    """Middleware that normalizes every path before routing: without the service's prefix, its known parts in one spelling."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": plain_path(scope["path"])}
        await self.app(scope, receive, send)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, MafunzoError)
    return JSONResponse(error_body(error), error.status, retry_after(error, context_of(request).limits))
