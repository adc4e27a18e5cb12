"""The application of the https port, which speaks Azure's dialects."""

from collections.abc import Sequence

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.responses import JSONResponse, Response

from mafunzo.errors import MafunzoError, RateLimitExceeded
from mafunzo.server import azure_access, azure_asset, azure_job, azure_mlflow, azure_registry, azureml, blob, scoring
from mafunzo.server.azure_context import AzureContext, require_token, require_workspace
from mafunzo.server.base_app import surround
from mafunzo.server.context import context_of
from mafunzo.wire.azureml.envelope import error_body


def create_azure_app(context: AzureContext, beside: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the application of the https port, with routes of other ways in `beside` Azure's own."""
    app = FastAPI(title="Mafunzo for the Azure SDK", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    surround(app, context.serving, azure_access.is_told, azureml.NormalPaths)
    app.add_exception_handler(MafunzoError, _refuse)
    guarded = [Depends(require_token), Depends(require_workspace)]
    for router in (azureml.public, azure_registry.public, blob.router, scoring.router):
        app.include_router(router)
    app.include_router(azure_mlflow.router, dependencies=guarded)
    for router in (*beside, azure_job.public):
        app.include_router(router)
    # the last one refuses what nobody has taken
    for router in (azure_asset.router, azure_job.router, azure_registry.router, azureml.router):
        app.include_router(router, dependencies=guarded)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, MafunzoError)
    retry_after = str(context_of(request).limits.retry_after_s)
    headers = {"Retry-After": retry_after} if isinstance(error, RateLimitExceeded) else {}
    return JSONResponse(error_body(error), error.status, headers)
