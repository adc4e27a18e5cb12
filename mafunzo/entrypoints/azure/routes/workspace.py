"""The one workspace of this home, in Azure ML's dialect."""

from typing import Any

from fastapi import APIRouter, Request

from mafunzo.entrypoints.azure.context import Azure
from mafunzo.entrypoints.azure.wire.envelope import (
    LOCATION,
    OF_GROUP,
    OF_SUBSCRIPTION,
    SUBSCRIPTION,
    WORKSPACE,
    WS,
    page,
    resource,
    system_data,
    workspace_id,
)

router = APIRouter()


@router.get(WS)
def get_workspace(azure: Azure) -> Any:
    """Return the one workspace of this home."""
    properties = {
        "friendlyName": WORKSPACE,
        "description": f"Mafunzo in {azure.workspace.home.root}",
        "discoveryUrl": f"{azure.place.base}/discovery",
        "mlFlowTrackingUri": azure.mlflow_uri,
        "provisioningState": "Succeeded",
        "workspaceId": SUBSCRIPTION,
        "storageAccount": f"{workspace_id()}/storage",
        "publicNetworkAccess": "Disabled",
    }
    return resource(
        workspace_id(),
        WORKSPACE,
        "workspaces",
        properties,
        location=LOCATION,
        kind="Default",
        identity={"type": "SystemAssigned"},
        tags={},
        systemData=system_data(azure.workspace.home_user, None),
    )


@router.get(f"{OF_GROUP}/workspaces")
@router.get(f"{OF_SUBSCRIPTION}/workspaces")
def list_workspaces(request: Request, azure: Azure) -> Any:
    """List the one workspace of this home, which is neither a hub nor a project of one."""
    kinds = request.query_params.get("kind", "default").lower().split(",")
    return page([get_workspace(azure)] if "default" in kinds else [])
