"""Online endpoints and their deployments in Azure ML's dialect."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.entrypoints.azure.context import Azure, Body
from mafunzo.entrypoints.azure.routes.operation import Operation, OperationKind, accepted, operation_headers
from mafunzo.entrypoints.azure.routes.page import scrolled_by_name
from mafunzo.entrypoints.azure.wire.endpoint import (
    deployment_body,
    deployment_from_body,
    endpoint_body,
    endpoint_from_body,
)
from mafunzo.entrypoints.azure.wire.envelope import WS
from mafunzo.errors import InvalidParameter

TAIL_LINES = 100

router = APIRouter()


@router.get(f"{WS}/onlineEndpoints")
def list_endpoints(request: Request, azure: Azure) -> Any:
    """List the endpoints."""
    return scrolled_by_name(request, azure.workspace.endpoints.list, lambda one: endpoint_body(one, azure.place.base))


@router.get(f"{WS}/onlineEndpoints/{{name}}")
def get_endpoint(azure: Azure, name: str) -> Any:
    """Return one endpoint."""
    return endpoint_body(azure.workspace.endpoints.get(name).endpoint, azure.place.base)


@router.put(f"{WS}/onlineEndpoints/{{name}}")
def put_endpoint(azure: Azure, name: str, body: Body) -> Response:
    """Make an endpoint, or change its traffic and tags."""
    handle = azure.workspace.endpoints.create(name, endpoint_from_body(name, body))
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
def regenerate_keys(azure: Azure, name: str, body: Body) -> Response:
    """Replace one key by a new one, at once."""
    azure.workspace.endpoints.get(name).regenerate_key(str(body.get("keyType", "Primary")).lower())
    return Response(status_code=200)


@router.get(f"{WS}/onlineEndpoints/{{endpoint}}/deployments")
def list_deployments(request: Request, azure: Azure, endpoint: str) -> Any:
    """List an endpoint's deployments."""
    azure.workspace.endpoints.get(endpoint)
    return scrolled_by_name(request, partial(azure.workspace.deployments.page, endpoint), deployment_body)


@router.get(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}")
def get_deployment(azure: Azure, endpoint: str, name: str) -> Any:
    """Return one deployment."""
    return deployment_body(azure.workspace.deployments.get(endpoint, name))


@router.put(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}")
def put_deployment(azure: Azure, endpoint: str, name: str, body: Body) -> Response:
    """Start a long-running operation that serves a model; it succeeds once the model answers as in evaluation."""
    deployment = azure.workspace.deployments.create(endpoint, name, deployment_from_body(name, body))
    headers = operation_headers(azure, Operation(OperationKind.DEPLOY, endpoint, name))
    return JSONResponse(deployment_body(deployment), status_code=201, headers=headers)


@router.delete(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}")
def delete_deployment(azure: Azure, endpoint: str, name: str) -> Response:
    """Start a long-running operation that deletes a deployment without traffic."""
    azure.workspace.endpoints.get(endpoint).begin_delete_deployment(name)
    return accepted(azure, Operation(OperationKind.DELETE_DEPLOYMENT, endpoint, name))


@router.post(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}/getLogs")
def get_deployment_logs(azure: Azure, endpoint: str, name: str, body: Body) -> Any:
    """Return the end of a worker's log."""
    tail = body.get("tail") or TAIL_LINES
    if not isinstance(tail, int) or tail < 1:
        raise InvalidParameter(f"tail is {tail!r}, expected a number of lines, 1 or more.", param="tail")
    azure.workspace.deployments.get(endpoint, name)
    return {"content": azure.workspace.endpoints.get(endpoint).logs(name, tail).get(name, "")}
