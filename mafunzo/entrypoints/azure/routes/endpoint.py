"""Online endpoints in Azure ML's dialect."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.entrypoints.azure.context import Azure, body_of
from mafunzo.entrypoints.azure.routes.operation import Operation, OperationKind, accepted
from mafunzo.entrypoints.azure.routes.page import paged
from mafunzo.entrypoints.azure.routes.path import WS
from mafunzo.entrypoints.azure.wire.endpoint import endpoint_body, endpoint_from_body

router = APIRouter()


@router.get(f"{WS}/onlineEndpoints")
def list_endpoints(request: Request, azure: Azure) -> Any:
    """List the endpoints."""
    return paged(request, [endpoint_body(one, azure.place.base) for one in azure.workspace.endpoints.list()])


@router.get(f"{WS}/onlineEndpoints/{{name}}")
def get_endpoint(azure: Azure, name: str) -> Any:
    """Return one endpoint."""
    return endpoint_body(azure.workspace.endpoints.get(name).endpoint, azure.place.base)


@router.put(f"{WS}/onlineEndpoints/{{name}}")
async def put_endpoint(request: Request, azure: Azure, name: str) -> Response:
    """Make an endpoint, or change its traffic and tags."""
    endpoint_request = endpoint_from_body(name, await body_of(request))
    handle = await azure.in_thread(lambda: azure.workspace.endpoints.put(name, endpoint_request))
    return JSONResponse(endpoint_body(handle.endpoint, azure.place.base), status_code=201)


@router.delete(f"{WS}/onlineEndpoints/{{name}}")
def delete_endpoint(azure: Azure, name: str) -> Response:
    """Start a long-running operation that deletes an endpoint with its deployments."""
    azure.workspace.endpoints.get(name).begin_delete()
    return accepted(azure, Operation(OperationKind.DELETE_ENDPOINT, name))


@router.post(f"{WS}/onlineEndpoints/{{name}}/listKeys")
def list_keys(azure: Azure, name: str) -> Any:
    """Return an endpoint's API keys."""
    primary, secondary = azure.workspace.endpoints.get(name).keys
    return {"primaryKey": primary, "secondaryKey": secondary}


@router.post(f"{WS}/onlineEndpoints/{{name}}/regenerateKeys")
async def regenerate_keys(request: Request, azure: Azure, name: str) -> Response:
    """Replace one key by a new one, at once."""
    which = str((await body_of(request)).get("keyType", "Primary")).lower()
    await azure.in_thread(lambda: azure.workspace.endpoints.get(name).regenerate_key(which))
    return Response(status_code=200)
