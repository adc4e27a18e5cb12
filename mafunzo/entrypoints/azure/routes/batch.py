"""Batch endpoints, their deployments and their jobs in Azure ML's dialect."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.entrypoints.azure.context import Azure, Body
from mafunzo.entrypoints.azure.routes.page import scan_of, scrolled, scrolled_by_name
from mafunzo.entrypoints.azure.wire.batch import (
    BATCH_ENDPOINTS,
    batch_deployment_body,
    batch_deployment_from_body,
    batch_endpoint_body,
    batch_endpoint_from_body,
    batch_job_body,
    invocation_from_body,
)
from mafunzo.entrypoints.azure.wire.envelope import WS
from mafunzo.entrypoints.http.forwarding import named_deployment

router = APIRouter()
ALL = f"{WS}/{BATCH_ENDPOINTS}"


@router.get(ALL)
def list_batch_endpoints(request: Request, azure: Azure) -> Any:
    """List the batch endpoints."""
    read = azure.workspace.batch_endpoints.list
    return scrolled_by_name(request, read, lambda one: batch_endpoint_body(one, azure.place.base))


@router.get(f"{ALL}/{{name}}")
def get_batch_endpoint(azure: Azure, name: str) -> Any:
    """Return one batch endpoint."""
    return batch_endpoint_body(azure.workspace.batch_endpoints.get(name), azure.place.base)


@router.put(f"{ALL}/{{name}}")
def put_batch_endpoint(azure: Azure, name: str, body: Body) -> Response:
    """Make a batch endpoint, or change its default and tags. It is there at once."""
    endpoint = azure.workspace.batch_endpoints.create(name, batch_endpoint_from_body(name, body))
    return JSONResponse(batch_endpoint_body(endpoint, azure.place.base), status_code=201)


@router.delete(f"{ALL}/{{name}}")
def delete_batch_endpoint(azure: Azure, name: str) -> Response:
    """Delete a batch endpoint with its deployments; its jobs stay."""
    azure.workspace.batch_endpoints.delete(name)
    return Response(status_code=200)


@router.get(f"{ALL}/{{endpoint}}/deployments")
def list_batch_deployments(request: Request, azure: Azure, endpoint: str) -> Any:
    """List a batch endpoint's deployments."""
    read = partial(azure.workspace.batch_endpoints.deployments, endpoint)
    return scrolled_by_name(request, read, batch_deployment_body)


@router.get(f"{ALL}/{{endpoint}}/deployments/{{name}}")
def get_batch_deployment(azure: Azure, endpoint: str, name: str) -> Any:
    """Return one deployment."""
    return batch_deployment_body(azure.workspace.batch_endpoints.deployment(endpoint, name))


@router.put(f"{ALL}/{{endpoint}}/deployments/{{name}}")
def put_batch_deployment(azure: Azure, endpoint: str, name: str, body: Body) -> Response:
    """Make a deployment, or change it. It is there at once: nothing runs until a file comes."""
    request = batch_deployment_from_body(name, body)
    deployment = azure.workspace.batch_endpoints.deploy(endpoint, name, request)
    return JSONResponse(batch_deployment_body(deployment), status_code=201)


@router.delete(f"{ALL}/{{endpoint}}/deployments/{{name}}")
def delete_batch_deployment(azure: Azure, endpoint: str, name: str) -> Response:
    """Delete a deployment."""
    azure.workspace.batch_endpoints.delete_deployment(endpoint, name)
    return Response(status_code=200)


@router.post(f"{ALL}/{{endpoint}}/jobs")
def invoke_batch_endpoint(request: Request, azure: Azure, endpoint: str, body: Body) -> Response:
    """Put a job into the queue that answers a file of rows, by the deployment that a header names or the default."""
    invocation = invocation_from_body(body, named_deployment(request.headers) or "")
    job = azure.workspace.batch_endpoints.invoke(endpoint, invocation)
    return JSONResponse(batch_job_body(job.job), status_code=201)


@router.get(f"{ALL}/{{endpoint}}/jobs")
def list_batch_jobs(request: Request, azure: Azure, endpoint: str) -> Any:
    """List the jobs that a batch endpoint was invoked for, newest first."""
    return scrolled(request, azure.workspace.batch_endpoints.jobs(endpoint, scan=scan_of(request)), batch_job_body)


@router.get(f"{ALL}/{{endpoint}}/deployments/{{name}}/jobs")
def list_batch_deployment_jobs(request: Request, azure: Azure, endpoint: str, name: str) -> Any:
    """List the jobs that one deployment has answered, or is to answer."""
    deployment = "" if name == "None" else name  # the SDK's word for all
    jobs = azure.workspace.batch_endpoints.jobs(endpoint, deployment, scan_of(request))
    return scrolled(request, jobs, batch_job_body)
