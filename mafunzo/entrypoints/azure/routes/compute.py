"""Clusters and machine sizes in Azure ML's dialect."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.entrypoints.azure.context import Azure, Body
from mafunzo.entrypoints.azure.routes.page import scrolled_by_name
from mafunzo.entrypoints.azure.wire.compute import compute_body, compute_from_body, scale_from_body, size_body
from mafunzo.entrypoints.azure.wire.envelope import OF_SUBSCRIPTION, WS, page
from mafunzo.entrypoints.http.listing import shown

router = APIRouter()


@router.get(f"{WS}/computes")
def list_computes(request: Request, azure: Azure) -> Any:
    """List the clusters."""
    return scrolled_by_name(request, azure.workspace.computes.list, compute_body)


@router.get(f"{WS}/computes/{{name}}")
def get_compute(azure: Azure, name: str) -> Any:
    """Return one cluster."""
    return compute_body(azure.workspace.computes.find(name))


@router.put(f"{WS}/computes/{{name}}")
def put_compute(azure: Azure, name: str, body: Body) -> Response:
    """Make a cluster, or change it. It is there at once: its steps run on this machine."""
    compute = azure.workspace.computes.create(compute_from_body(name, body))
    return JSONResponse(compute_body(compute), status_code=201)


@router.patch(f"{WS}/computes/{{name}}")
def patch_compute(azure: Azure, name: str, body: Body) -> Response:
    """Change a cluster's scale settings."""
    return JSONResponse(compute_body(azure.workspace.computes.rescale(name, scale_from_body(body))))


@router.delete(f"{WS}/computes/{{name}}")
def delete_compute(azure: Azure, name: str) -> Response:
    """Delete a cluster."""
    azure.workspace.computes.delete(name)
    return Response(status_code=200)


@router.post(f"{WS}/computes/{{name}}/listNodes")
def list_nodes(azure: Azure, name: str) -> Any:
    """List a cluster's nodes: it holds none, since its steps run on this machine."""
    azure.workspace.computes.find(name)
    return {"nodes": []}


@router.get(f"{OF_SUBSCRIPTION}/locations/{{location}}/usages")
def list_usages() -> Any:
    """List quota usages: there is no quota."""
    return page([])


@router.get(f"{OF_SUBSCRIPTION}/locations/{{location}}/vmSizes")
def list_sizes(azure: Azure) -> Any:
    """List machine sizes, all on one page, since clients read no other; `local` is this machine, and counts its GPUs truly."""
    return page(shown(azure.workspace.computes.sizes(), size_body))
