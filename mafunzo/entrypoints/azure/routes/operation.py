"""Long-running operations, which Azure's clients poll: the status is computed from the current state each time.

They are stateless: an operation's name holds all of it, as in `deployment:ENDPOINT:NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from mafunzo.entities.endpoint import Deployment
from mafunzo.entrypoints.azure.context import Azure, AzureContext
from mafunzo.entrypoints.azure.wire.endpoint import failed_worker, provisioning_state
from mafunzo.entrypoints.azure.wire.envelope import error_body, operation_path
from mafunzo.errors import FailedError, MafunzoError, NotFound, from_record

POLL_S = "1"
"""The polling interval in seconds (`Retry-After`); without it Azure's clients wait half a minute."""
IN_PROGRESS, SUCCEEDED, FAILED = "InProgress", "Succeeded", "Failed"

router = APIRouter()


class OperationKind(StrEnum):
    """What an operation does: the prefix of its name."""

    DEPLOY = "deployment"
    DELETE_DEPLOYMENT = "deployment-deleted"
    DELETE_ENDPOINT = "endpoint-deleted"


@dataclass(frozen=True)
class Operation:
    """A long-running operation on an endpoint, or on a deployment of it."""

    kind: OperationKind
    endpoint: str
    deployment: str = ""

    def __str__(self) -> str:
        return ":".join(part for part in (self.kind, self.endpoint, self.deployment) if part)

    @staticmethod
    def parse(name: str) -> Operation:
        """Return the operation of that name; raises `NotFound`."""
        kind, _, rest = name.partition(":")
        endpoint, _, deployment = rest.partition(":")
        if kind not in list(OperationKind):
            raise NotFound(f"No operation '{name}' is known.")
        return Operation(OperationKind(kind), endpoint, deployment)


@router.get(operation_path("{what}"))
def get_operation(azure: Azure, what: str) -> Response:
    """Return an operation's status."""
    return JSONResponse(_status(azure, Operation.parse(what)), headers={"Retry-After": POLL_S})


def operation_headers(azure: AzureContext, operation: Operation) -> dict[str, str]:
    """Return the headers by which a client polls an operation."""
    return {
        "Azure-AsyncOperation": f"{azure.place.base}{operation_path(str(operation))}",
        "Retry-After": POLL_S,
    }


def accepted(azure: AzureContext, operation: Operation) -> Response:
    """Return the 202 answer to a request that has started an operation."""
    return Response(status_code=202, headers=operation_headers(azure, operation))


def _status(azure: AzureContext, operation: Operation) -> dict[str, Any]:
    workspace, name = azure.workspace, operation.deployment
    if operation.kind is OperationKind.DELETE_ENDPOINT:
        is_there = workspace.endpoints.has(operation.endpoint)
        return {"status": IN_PROGRESS if is_there else SUCCEEDED}
    deployments = {deployment.name: deployment for deployment in workspace.deployments.list(operation.endpoint)}
    if operation.kind is OperationKind.DELETE_DEPLOYMENT:
        return {"status": IN_PROGRESS if name in deployments else SUCCEEDED}
    if name not in deployments:
        gone = f"Deployment {operation.endpoint}/{name} was deleted, or its endpoint, while it was being made."
        return {"status": FAILED, **error_body(NotFound(gone))}
    state = provisioning_state(deployments[name])
    if state == FAILED:
        return {"status": FAILED, **error_body(_failure(deployments[name]))}
    return {"status": SUCCEEDED if state == SUCCEEDED else IN_PROGRESS}


def _failure(deployment: Deployment) -> MafunzoError:
    """Return a deployment's failure as it was raised."""
    failed = deployment.rollout or failed_worker(deployment) or deployment
    return from_record(failed.error, FailedError("it failed"))
