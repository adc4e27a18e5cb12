"""Deployments of online endpoints in Azure ML's dialect."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.entrypoints.azure.context import Azure, body_of
from mafunzo.entrypoints.azure.routes.operation import Operation, OperationKind, accepted, operation_headers
from mafunzo.entrypoints.azure.routes.page import paged
from mafunzo.entrypoints.azure.routes.path import WS
from mafunzo.entrypoints.azure.wire.endpoint import deployment_body, deployment_from_body
from mafunzo.errors import InvalidParameter

TAIL_LINES = 100
router = APIRouter()


@router.get(f"{WS}/onlineEndpoints/{{endpoint}}/deployments")
def list_deployments(request: Request, azure: Azure, endpoint: str) -> Any:
    """List an endpoint's deployments."""
    return paged(request, map(deployment_body, azure.workspace.endpoints.get(endpoint).deployments))


@router.get(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}")
def get_deployment(azure: Azure, endpoint: str, name: str) -> Any:
    """Return one deployment."""
    return deployment_body(azure.workspace.deployments.get(endpoint, name))


@router.put(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}")
async def put_deployment(request: Request, azure: Azure, endpoint: str, name: str) -> Response:
    """Start a long-running operation that serves a model; it succeeds once the model answers as in evaluation."""
    deployment_request = deployment_from_body(name, await body_of(request))
    deployment = await azure.in_thread(lambda: azure.workspace.deployments.put(endpoint, name, deployment_request))
    headers = operation_headers(azure, Operation(OperationKind.DEPLOY, endpoint, name))
    return JSONResponse(deployment_body(deployment), status_code=201, headers=headers)


@router.delete(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}")
def delete_deployment(azure: Azure, endpoint: str, name: str) -> Response:
    """Start a long-running operation that deletes a deployment without traffic."""
    azure.workspace.endpoints.get(endpoint).begin_delete_deployment(name)
    return accepted(azure, Operation(OperationKind.DELETE_DEPLOYMENT, endpoint, name))


@router.post(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}/getLogs")
async def get_deployment_logs(request: Request, azure: Azure, endpoint: str, name: str) -> Any:
    """Return the end of a worker's log."""
    tail = (await body_of(request)).get("tail") or TAIL_LINES
    if not isinstance(tail, int) or tail < 1:
        raise InvalidParameter(f"tail is {tail!r}, expected a number of lines, 1 or more.", param="tail")

    def log() -> dict[str, str]:
        azure.workspace.deployments.get(endpoint, name)
        return {"content": azure.workspace.endpoints.get(endpoint).logs(name, tail).get(name, "")}

    return await azure.in_thread(log)
