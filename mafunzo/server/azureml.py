"""Azure Resource Manager's and Azure ML's dialect: what the Azure SDK asks of a workspace and of the registry.

Routes are matched by path, whatever the api-version: `NormalPaths` takes off the service's name and the spelling's variants.
"""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mafunzo.entities.endpoint import Deployment
from mafunzo.errors import InvalidParameter, NotFound, from_code
from mafunzo.server.access import caller_with
from mafunzo.server.azure_access import SIGNED_FOR
from mafunzo.server.azure_context import AzureContext, azure_context, body_of
from mafunzo.server.azure_page import OF_GROUP, OF_SUBSCRIPTION, WS, paged
from mafunzo.server.azure_refused import refusal
from mafunzo.wire.azureml import compute as compute_wire
from mafunzo.wire.azureml import endpoint as endpoint_wire
from mafunzo.wire.azureml.envelope import (
    CLOUD,
    DATASTORE,
    DATASTORES,
    LOCATION,
    SUBSCRIPTION,
    SUFFIX,
    WORKSPACE,
    error_body,
    operation_path,
    page,
    plain_path,
    resource,
    system_data,
    workspace_id,
)

POLL_S = "1"
"""Seconds after which a client asks again how far an operation is; else Azure's wait half a minute."""

public = APIRouter()
router = APIRouter()


class NormalPaths:
    """Spells every path in one way before it is matched."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": plain_path(scope["path"])}
        await self.app(scope, receive, send)


# What is asked before there is a token


@public.get("/metadata/endpoints")
def cloud_metadata(request: Request) -> Any:
    """Describe the cloud that this server is."""
    place = azure_context(request).place
    return [
        {
            "name": CLOUD,
            "portal": place.base,
            "resourceManager": place.base,
            "authentication": {"loginEndpoint": place.base, "audiences": [place.base], "tenant": "common"},
            "suffixes": {"storage": SUFFIX},
        }
    ]


@public.get("/msi/token")
def managed_identity(request: Request, resource: str = "") -> Any:
    """Give a token to whoever knows the home's secret, or has a user's token."""
    context = azure_context(request)
    secret = request.headers.get("x-identity-header", "")
    request.state.caller = caller_with(secret, context.identity, context.workspace.users)
    if not resource:
        raise InvalidParameter("The request names no resource to give a token for.", param="resource")
    token, ends = context.identity.token(resource, request.state.caller)
    return {"access_token": token, "expires_on": str(ends), "resource": resource, "token_type": "Bearer"}


# The workspace


@router.get(WS)
def get_workspace(request: Request) -> Any:
    """Return the one workspace of this home."""
    context = azure_context(request)
    properties = {
        "friendlyName": WORKSPACE,
        "description": f"Mafunzo in {context.workspace.home.root}",
        "discoveryUrl": f"{context.place.base}/discovery",
        "mlFlowTrackingUri": context.mlflow_uri,
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
        systemData=system_data(context.workspace.home_user, None),
    )


@router.get(f"{OF_GROUP}/workspaces")
@router.get(f"{OF_SUBSCRIPTION}/workspaces")
def list_workspaces(request: Request) -> Any:
    """List the one workspace of this home, which is neither a hub nor a project of one."""
    kinds = request.query_params.get("kind", "default").lower().split(",")
    return page([get_workspace(request)] if "default" in kinds else [])


# Computes


@router.get(f"{WS}/computes")
def list_computes(request: Request) -> Any:
    """List the clusters that were made."""
    return paged(request, map(compute_wire.compute_body, azure_context(request).workspace.computes.list()))


@router.get(f"{WS}/computes/{{name}}")
def get_compute(request: Request, name: str) -> Any:
    """Return one cluster."""
    return compute_wire.compute_body(azure_context(request).workspace.computes.find(name))


@router.put(f"{WS}/computes/{{name}}")
async def put_compute(request: Request, name: str) -> Response:
    """Make a cluster, or change it. It is there at once: its steps run on this machine."""
    context = azure_context(request)
    asked = compute_wire.compute_from_body(name, await body_of(request))
    compute = await context.in_thread(lambda: context.workspace.computes.create(name, asked))
    return JSONResponse(compute_wire.compute_body(compute), status_code=201)


@router.patch(f"{WS}/computes/{{name}}")
async def patch_compute(request: Request, name: str) -> Response:
    """Change a cluster's scale settings."""
    context, body = azure_context(request), await body_of(request)
    changed = await context.in_thread(
        lambda: context.workspace.computes.rescale(name, compute_wire.scale_from_body(body))
    )
    return JSONResponse(compute_wire.compute_body(changed))


@router.delete(f"{WS}/computes/{{name}}")
def delete_compute(request: Request, name: str) -> Response:
    """Delete a cluster."""
    azure_context(request).workspace.computes.delete(name)
    return Response(status_code=200)


@router.post(f"{WS}/computes/{{name}}/listNodes")
def list_nodes(request: Request, name: str) -> Any:
    """List a cluster's nodes: it holds none, since its steps run on this machine."""
    azure_context(request).workspace.computes.find(name)
    return {"nodes": []}


@router.get(f"{OF_SUBSCRIPTION}/locations/{{location}}/usages")
def list_usages() -> Any:
    """List what of a quota is used: there is no quota."""
    return page([])


@router.get(f"{OF_SUBSCRIPTION}/locations/{{location}}/vmSizes")
def list_sizes(request: Request) -> Any:
    """List machine sizes; `local` is this machine, and counts its GPUs truly."""
    return paged(request, map(compute_wire.size_body, azure_context(request).workspace.computes.sizes()))


# The run history


@public.get("/discovery")
def discover_services(request: Request) -> Any:
    """Say where the run history is: here."""
    base = azure_context(request).place.base
    return {"api": base, "history": base, "experimentation": base, "studio": base}


# Online endpoints


@router.get(f"{WS}/onlineEndpoints")
def list_endpoints(request: Request) -> Any:
    """List the endpoints."""
    context = azure_context(request)
    found = context.workspace.endpoints.list()
    return paged(request, [endpoint_wire.endpoint_body(one, context.place.base) for one in found])


@router.get(f"{WS}/onlineEndpoints/{{name}}")
def get_endpoint(request: Request, name: str) -> Any:
    """Return one endpoint."""
    context = azure_context(request)
    return endpoint_wire.endpoint_body(context.workspace.endpoints.get(name).endpoint, context.place.base)


@router.put(f"{WS}/onlineEndpoints/{{name}}")
async def put_endpoint(request: Request, name: str) -> Response:
    """Make an endpoint, or change its traffic and tags."""
    context = azure_context(request)
    asked = endpoint_wire.endpoint_from_body(name, await body_of(request))
    handle = await context.in_thread(lambda: context.workspace.endpoints.put(name, asked))
    return JSONResponse(endpoint_wire.endpoint_body(handle.endpoint, context.place.base), status_code=201)


@router.delete(f"{WS}/onlineEndpoints/{{name}}")
def delete_endpoint(request: Request, name: str) -> Response:
    """Begin to delete an endpoint with its deployments."""
    context = azure_context(request)
    context.workspace.endpoints.get(name).begin_delete()
    return _accepted(context, f"endpoint-deleted:{name}")


@router.post(f"{WS}/onlineEndpoints/{{name}}/listKeys")
def list_keys(request: Request, name: str) -> Any:
    """Return the keys that open an endpoint."""
    primary, secondary = azure_context(request).workspace.endpoints.get(name).keys
    return {"primaryKey": primary, "secondaryKey": secondary}


@router.post(f"{WS}/onlineEndpoints/{{name}}/regenerateKeys")
async def regenerate_keys(request: Request, name: str) -> Response:
    """Replace one key by a new one, at once."""
    context, body = azure_context(request), await body_of(request)
    which = str(body.get("keyType", "Primary")).lower()
    await context.in_thread(lambda: context.workspace.endpoints.get(name).regenerate_key(which))
    return Response(status_code=200)


@router.get(f"{WS}/onlineEndpoints/{{endpoint}}/deployments")
def list_deployments(request: Request, endpoint: str) -> Any:
    """List an endpoint's deployments."""
    found = azure_context(request).workspace.endpoints.get(endpoint).deployments
    return paged(request, map(endpoint_wire.deployment_body, found))


@router.get(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}")
def get_deployment(request: Request, endpoint: str, name: str) -> Any:
    """Return one deployment."""
    return endpoint_wire.deployment_body(azure_context(request).workspace.records.deployments.get(endpoint, name))


@router.put(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}")
async def put_deployment(request: Request, endpoint: str, name: str) -> Response:
    """Begin to serve a model; it is there once it has proven that it answers as in evaluation."""
    context = azure_context(request)
    asked = endpoint_wire.deployment_from_body(name, await body_of(request))
    made = await context.in_thread(lambda: context.workspace.deployments.put(endpoint, name, asked))
    headers = _operation_headers(context, f"deployment:{endpoint}:{name}")
    return JSONResponse(endpoint_wire.deployment_body(made), status_code=201, headers=headers)


@router.delete(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}")
def delete_deployment(request: Request, endpoint: str, name: str) -> Response:
    """Begin to delete a deployment that has no traffic."""
    context = azure_context(request)
    context.workspace.endpoints.get(endpoint).begin_delete_deployment(name)
    return _accepted(context, f"deployment-deleted:{endpoint}:{name}")


@router.post(f"{WS}/onlineEndpoints/{{endpoint}}/deployments/{{name}}/getLogs")
async def get_deployment_logs(request: Request, endpoint: str, name: str) -> Any:
    """Return the end of a worker's log."""
    context, body = azure_context(request), await body_of(request)
    tail = body.get("tail") or 100
    if not isinstance(tail, int) or tail < 1:
        raise InvalidParameter(f"tail is {tail!r}, expected a number of lines, 1 or more.", param="tail")
    return await context.in_thread(lambda: {"content": _log_of(context, endpoint, name, tail)})


def _log_of(context: AzureContext, endpoint: str, name: str, lines: int) -> str:
    context.workspace.records.deployments.get(endpoint, name)
    return context.workspace.endpoints.get(endpoint).logs(name, lines).get(name, "")


@router.get(operation_path("{what}"))
def get_operation(request: Request, what: str) -> Response:
    """Say how far an operation is: what it was to reach is looked at, so that nothing has to be remembered."""
    records = azure_context(request).workspace.records
    kind, _, name = what.partition(":")
    endpoint, _, deployment = name.partition(":")
    there = {d.name: d for d in records.deployments.list(endpoint)}
    found: dict[str, Any]
    match kind:
        case "deployment" if deployment in there:
            state = endpoint_wire.provisioning_state(there[deployment])
            found = {"status": state if state in ("Succeeded", "Failed") else "InProgress"}
            if state == "Failed":
                found["error"] = _why(there[deployment])
        case "deployment":
            gone = NotFound(
                f"Deployment {endpoint}/{deployment} was deleted, or its endpoint, while it was being made."
            )
            found = {"status": "Failed", **error_body(gone)}
        case "deployment-deleted":
            found = {"status": "InProgress" if deployment in there else "Succeeded"}
        case "endpoint-deleted":
            found = {"status": "InProgress" if name in {e.name for e in records.endpoints.list()} else "Succeeded"}
        case _:
            raise NotFound(f"No operation '{what}' is known.")
    return JSONResponse(found, headers={"Retry-After": POLL_S})


# Where files go


@router.get(f"{WS}/datastores")
def list_datastores(request: Request) -> Any:
    """List the datastores: the home's own, and the one of what jobs print."""
    return page(_datastore(azure_context(request), name) for name in DATASTORES)


@router.get(f"{WS}/datastores/{{name}}")
def get_datastore(request: Request, name: str) -> Any:
    """Return a datastore of the home."""
    return _datastore(azure_context(request), name)


@router.post(f"{WS}/datastores/{{name}}/listSecrets")
async def list_secrets(request: Request, name: str) -> Any:
    """Give a signature that opens the datastore's container for an hour, or else the account's key: both the caller's own."""
    container, context = _container_of(name), azure_context(request)
    asked = await body_of(request) if request.headers.get("content-length", "0") != "0" else {}
    if asked.get("expirableSecret"):
        return {"secretsType": "Sas", "sasToken": context.sas.sign(container, SIGNED_FOR[context.caller.role])}
    return {"secretsType": "AccountKey", "key": context.sas.account_key}


@router.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
def unknown(request: Request, path: str) -> Response:
    """Refuse what isn't there, and name it."""
    raise refusal(request.method, path)


def _operation_headers(context: AzureContext, what: str) -> dict[str, str]:
    return {"Azure-AsyncOperation": f"{context.place.base}{operation_path(what)}", "Retry-After": POLL_S}


def _accepted(context: AzureContext, what: str) -> Response:
    return Response(status_code=202, headers=_operation_headers(context, what))


def _why(deployment: Deployment) -> dict[str, Any]:
    """Return why a deployment isn't served, as an operation's error."""
    told = deployment.error or {}
    error = from_code(str(told.get("code", "failed")), str(told.get("message", "it failed")), told.get("faults") or ())
    found: dict[str, Any] = error_body(error)["error"]
    return found


def _datastore(context: AzureContext, name: str) -> dict[str, Any]:
    properties = {
        "datastoreType": "AzureBlob",
        "accountName": context.place.storage_account,
        "containerName": _container_of(name),
        "endpoint": SUFFIX,
        "protocol": "https",
        "isDefault": name == DATASTORE,
        "credentials": {"credentialsType": "AccountKey"},
        "description": "Files of this home, each stored by its content",
        "tags": {},
        "properties": {},
    }
    id = f"{workspace_id()}/datastores/{name}"
    return resource(id, name, "workspaces/datastores", properties, systemData=system_data("mafunzo", None))


def _container_of(datastore: str) -> str:
    """Return the container of blobs that a datastore is; raises `NotFound`."""
    if datastore not in DATASTORES:
        raise NotFound(f"No datastore is called '{datastore}'. There are: {', '.join(DATASTORES)}.")
    return DATASTORES[datastore]
