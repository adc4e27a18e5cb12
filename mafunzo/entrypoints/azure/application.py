"""The ASGI application of the https port, which speaks Azure's dialects."""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse, Response

from mafunzo.entrypoints.azure import access as azure_access
from mafunzo.entrypoints.azure.context import AzureContext
from mafunzo.entrypoints.azure.routes.path import NormalPaths
from mafunzo.entrypoints.azure.routes.table import add_azure_routes
from mafunzo.entrypoints.azure.wire.envelope import error_body
from mafunzo.entrypoints.http.application import surround
from mafunzo.entrypoints.http.context import context_of
from mafunzo.errors import MafunzoError, RateLimitExceeded


def create_azure_app(context: AzureContext, beside: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the application of the https port, with routes of other ways in `beside` Azure's own."""
    app = FastAPI(title="Mafunzo for the Azure SDK", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    surround(app, context.serving, azure_access.is_audited, NormalPaths)
    app.add_exception_handler(MafunzoError, _refuse)
    add_azure_routes(app, beside)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, MafunzoError)
    retry_after = str(context_of(request).limits.retry_after_s)
    headers = {"Retry-After": retry_after} if isinstance(error, RateLimitExceeded) else {}
    return JSONResponse(error_body(error), error.status, headers)
