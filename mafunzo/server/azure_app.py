"""The application of the https port, which speaks Azure's dialects."""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse, Response

from mafunzo.errors import MafunzoError, RateLimitExceeded
from mafunzo.server import azure_access
from mafunzo.server.azure_context import AzureContext
from mafunzo.server.azure_path import NormalPaths
from mafunzo.server.azure_routes import add_azure_routes
from mafunzo.server.base_app import surround
from mafunzo.server.context import context_of
from mafunzo.wire.azureml.envelope import error_body


def create_azure_app(context: AzureContext, beside: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the application of the https port, with routes of other ways in `beside` Azure's own."""
    app = FastAPI(title="Mafunzo for the Azure SDK", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    surround(app, context.serving, azure_access.is_told, NormalPaths)
    app.add_exception_handler(MafunzoError, _refuse)
    add_azure_routes(app, beside)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, MafunzoError)
    retry_after = str(context_of(request).limits.retry_after_s)
    headers = {"Retry-After": retry_after} if isinstance(error, RateLimitExceeded) else {}
    return JSONResponse(error_body(error), error.status, headers)
