"""The table of the Azure SDK's routes, in the order in which paths are matched.

Routes are matched by path, whatever the api-version.
"""

from collections.abc import Sequence

from fastapi import APIRouter, Depends, FastAPI

from mafunzo.entrypoints.azure.blob import routes as blob
from mafunzo.entrypoints.azure.context import require_token, require_workspace
from mafunzo.entrypoints.azure.routes import asset as azure_asset
from mafunzo.entrypoints.azure.routes import cloud as azure_cloud
from mafunzo.entrypoints.azure.routes import compute as azure_compute
from mafunzo.entrypoints.azure.routes import datastore as azure_datastore
from mafunzo.entrypoints.azure.routes import deployment as azure_deployment
from mafunzo.entrypoints.azure.routes import endpoint as azure_endpoint
from mafunzo.entrypoints.azure.routes import job as azure_job
from mafunzo.entrypoints.azure.routes import mlflow as azure_mlflow
from mafunzo.entrypoints.azure.routes import operation as azure_operation
from mafunzo.entrypoints.azure.routes import refused as azure_refused
from mafunzo.entrypoints.azure.routes import registry as azure_registry
from mafunzo.entrypoints.azure.routes import scoring
from mafunzo.entrypoints.azure.routes import workspace as azure_workspace

PUBLIC = (azure_cloud.public, azure_registry.public, azure_job.public, blob.router, scoring.router)
"""Routes without a token, or with credentials of their own."""
OF_CALLERS = (
    azure_asset.router,
    azure_job.router,
    azure_registry.router,
    azure_workspace.router,
    azure_compute.router,
    azure_endpoint.router,
    azure_deployment.router,
    azure_operation.router,
    azure_datastore.router,
    azure_refused.router,
)
"""Routes that need a token. The last one refuses the paths that no other matches."""


def add_azure_routes(app: FastAPI, beside: Sequence[APIRouter] = ()) -> None:
    """Add every route of the https port; those of other entrypoints, `beside`, before the one that refuses the rest."""
    of_callers = [Depends(require_token), Depends(require_workspace)]
    for router in PUBLIC:
        app.include_router(router)
    app.include_router(azure_mlflow.router, dependencies=of_callers)  # MLflow's own routes would take its paths
    for router in beside:
        app.include_router(router)
    for router in OF_CALLERS:
        app.include_router(router, dependencies=of_callers)
