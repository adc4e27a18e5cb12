"""The registry: the catalogue's models, and the components and environments that ship with Mafunzo, and what users share."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.shipped_component import shipped, shipped_names
from mafunzo.control.workspace.version import archive_all, change_version, registered, share
from mafunzo.entities.asset import REGISTRY_SCOPE, Asset, AssetType, home_path
from mafunzo.entities.blob import REGISTRY_CONTAINER
from mafunzo.entrypoints.azure.context import AzureContext, azure_context, body_of
from mafunzo.entrypoints.azure.reference import NOUNS
from mafunzo.entrypoints.azure.routes.page import listed, paged
from mafunzo.entrypoints.azure.routes.path import OF_GROUP, OF_SUBSCRIPTION, REG
from mafunzo.entrypoints.azure.routes.refused import refusal
from mafunzo.entrypoints.azure.routes.version import add_asset_routes
from mafunzo.entrypoints.azure.sas import LIST, READ
from mafunzo.entrypoints.azure.wire import asset as asset_wire
from mafunzo.entrypoints.azure.wire.code import upload_body
from mafunzo.entrypoints.azure.wire.envelope import (
    LOCATION,
    REGISTRY,
    RESOURCE_GROUP,
    SUBSCRIPTION,
    error_body,
    page,
    registry_arm_id,
    registry_id,
    resource,
    system_data,
)
from mafunzo.entrypoints.azure.wire.environment import environment_body
from mafunzo.errors import Conflict, FailedError, NotFound, NotSupported, Unavailable

PATIENCE_S = 240.0
"""For how long one request waits for a model that is being fetched; the client, which waits for 300, then asks again."""
POLL_S = 0.3

Body = dict[str, Any]

public = APIRouter()
router = APIRouter()


@dataclass(frozen=True)
class Shelf:
    """The registry's assets of one kind.

    names: those that ship with Mafunzo. offered: the versions of such a name as a GET answers them, all or the
    requested one: a curated environment is the same here in all of Azure's. body: a shared version. noun: of the client.
    """

    noun: str
    type: AssetType
    names: Callable[[Workspace], Iterable[str]]
    offered: Callable[[AzureContext, str, str | None], list[Body]]
    body: Callable[[AzureContext, Asset], Body]


def _models(context: AzureContext, name: str, _: str | None) -> list[Body]:
    return [_model(context, asset) for asset in context.workspace.models.on_offer(name)]


def _model(context: AzureContext, asset: Asset) -> Body:
    uri = f"{context.place.base}/{REGISTRY_CONTAINER}/{home_path(asset)}"
    return asset_wire.model_body(asset, uri)


def _components(_: AzureContext, name: str, __: str | None) -> list[Body]:
    return [asset_wire.component_body(shipped(name).component)] if name in shipped_names() else []


def _environments(context: AzureContext, name: str, version: str | None) -> list[Body]:
    return [environment_body(asset) for asset in context.workspace.environments.on_offer(name, version)]


SHELVES: Mapping[str, Shelf] = {
    shelf.noun: shelf
    for shelf in (
        Shelf("models", AssetType.MODEL, lambda of: [asset.name for asset in of.models.on_offer()], _models, _model),
        Shelf(
            "components",
            AssetType.COMPONENT,
            lambda _: shipped_names(),
            _components,
            lambda _, asset: asset_wire.component_version_body(asset),
        ),
        Shelf(
            "environments",
            AssetType.ENVIRONMENT,
            lambda of: [asset.name for asset in of.environments.on_offer()],
            _environments,
            lambda _, asset: environment_body(asset),
        ),
        Shelf("data", AssetType.DATA, lambda _: [], lambda *_: [], lambda _, asset: asset_wire.data_body(asset)),
    )
}
"""By their noun in paths."""


def _add_routes(shelf: Shelf) -> None:
    """Add the routes of one kind of asset."""

    def list_names(request: Request, registry: str) -> Any:
        """List the names, each with its newest version."""
        require_registry(registry)
        workspace = azure_context(request).workspace
        shared = (asset.name for asset in registered(workspace.services, shelf.type, scope=REGISTRY_SCOPE))
        names = dict.fromkeys([*shared, *shelf.names(workspace)])
        return paged(request, listed(request, [_container(request, shelf, name) for name in names], _is_archived))

    def get_container(request: Request, registry: str, name: str) -> Any:
        """Return the container of all versions of a name."""
        require_registry(registry)
        return _container(request, shelf, name)

    def list_versions(request: Request, registry: str, name: str) -> Any:
        """List the versions of a name, the newest first; a client that is about to add one expects none."""
        require_registry(registry)
        return paged(request, listed(request, _versions(request, shelf, name), _is_archived))

    def get_version(request: Request, registry: str, name: str, version: str) -> Any:
        """Return one version."""
        require_registry(registry)
        bodies = {body["name"]: body for body in _versions(request, shelf, name, version)}
        if version not in bodies:
            if not bodies:
                raise _nothing(shelf, name)
            raise NotFound(f"The registry has {shelf.type} '{name}' of version {', '.join(bodies)}, not {version}.")
        return bodies[version]

    async def put_container(request: Request, registry: str, name: str) -> Response:
        """Archive all versions of a shared name, or restore them."""
        require_registry(registry)
        context, body = azure_context(request), await body_of(request)
        is_archived = bool((body.get("properties") or {}).get("isArchived", False))

        def change() -> Body:
            if not registered(context.workspace.services, shelf.type, name, REGISTRY_SCOPE):
                raise refusal(request.method, request.url.path)
            archive_all(context.workspace.services, shelf.type, name, is_archived, REGISTRY_SCOPE)
            return _container(request, shelf, name)

        return JSONResponse(await context.in_thread(change), status_code=201)

    async def put_version(request: Request, registry: str, name: str, version: str) -> Response:
        """Change a shared version's mutable fields: description, tags, whether it is archived."""
        require_registry(registry)
        context = azure_context(request)
        change_request = asset_wire.version_from_body(await body_of(request))

        def change() -> Asset:
            versions = registered(context.workspace.services, shelf.type, name, REGISTRY_SCOPE)
            shared = {asset.version: asset for asset in versions}
            if version not in shared:
                raise refusal(request.method, request.url.path)
            return change_version(context.workspace.services, shared[version], change_request)

        changed = await context.in_thread(change)
        # Older clients take no other status.
        return JSONResponse(shelf.body(context, changed), 202, {"Retry-After": "1"})

    add_asset_routes(
        router,
        f"{REG}/{shelf.noun}",
        f"registry_{shelf.noun}",
        list_names=list_names,
        get_container=get_container,
        put_container=put_container,
        list_versions=list_versions,
        get_version=get_version,
        put_version=put_version,
    )


for _shelf in SHELVES.values():
    _add_routes(_shelf)


def _versions(request: Request, shelf: Shelf, name: str, version: str | None = None) -> list[Body]:
    """Return the versions of a name, the newest first; `version` is the requested one, if any."""
    context = azure_context(request)
    shared = registered(context.workspace.services, shelf.type, name, REGISTRY_SCOPE)
    return [shelf.body(context, asset) for asset in shared] or shelf.offered(context, name, version)


def _container(request: Request, shelf: Shelf, name: str) -> Body:
    versions = _versions(request, shelf, name)
    if not versions:
        raise _nothing(shelf, name)
    return asset_wire.container_body(shelf.type, name, versions)


def _nothing(shelf: Shelf, name: str) -> NotFound:
    return NotFound(
        f"The registry has no {shelf.type} '{name}'. {shelf.noun}.list() of its client shows what there is."
    )


def _is_archived(body: Body) -> bool:
    return bool(body["properties"]["isArchived"])


@public.get("/registrymanagement/v1.0/registries/{name}/discovery")
def discover_registry(request: Request, name: str) -> Any:
    """Return a registry's address: this server's."""
    require_registry(name)
    place = azure_context(request).place
    return {
        "registryName": name,
        "primaryRegion": LOCATION,
        "primaryRegionResourceProviderUri": f"{place.base}/",
        "subscriptionId": SUBSCRIPTION,
        "resourceGroup": RESOURCE_GROUP,
    }


@router.get(f"{OF_GROUP}/registries")
@router.get(f"{OF_SUBSCRIPTION}/registries")
def list_registries(request: Request) -> Any:
    """List the one registry."""
    return page([get_registry(request, REGISTRY)])


@router.get(REG)
def get_registry(request: Request, registry: str) -> Any:
    """Return the one registry."""
    require_registry(registry)
    base = azure_context(request).place.base
    properties = {
        "discoveryUrl": f"{base}/registrymanagement/v1.0/registries/{registry}/discovery",
        "publicNetworkAccess": "Disabled",
        "regionDetails": [{"location": LOCATION}],
    }
    creation = system_data("catalogue", None)
    return resource(
        registry_arm_id(), REGISTRY, "registries", properties, location=LOCATION, tags={}, kind="", systemData=creation
    )


@router.post(f"{REG}/import")
async def share_asset(request: Request, registry: str) -> Response:
    """Copy a version of the workspace to the registry, under a name that nothing has that ships with Mafunzo.

    The answer is empty: the SDK takes one that isn't for something else, and asks for the version in any case.
    """
    require_registry(registry)
    context, share_request = azure_context(request), asset_wire.share_from_body(await body_of(request))
    shelf = SHELVES.get(NOUNS[share_request.source.type] if share_request.source.type else "")
    if shelf is None:
        raise NotSupported(f"{share_request.source.type} can't be shared. These can: {', '.join(SHELVES)}.")

    def copy() -> None:
        if shelf.offered(context, share_request.name, None):
            raise Conflict(
                f"The registry's {shelf.type} '{share_request.name}' ships with Mafunzo. Share under another name."
            )
        share(context.workspace.services, shelf.type, share_request)

    await context.in_thread(copy)
    return Response(status_code=200)


@router.post(f"{REG}/datarefs/{{name}}/versions/{{version}}")
async def fetch_registry_model(request: Request, registry: str, name: str, version: str) -> Response:
    """Download a catalogue model where it isn't yet, publish its files as blobs, and return their SAS."""
    require_registry(registry)
    context = azure_context(request)
    id = registry_id("models", name, "versions", version)
    asset = await context.in_thread(lambda: context.workspace.models.get(id))
    artifact = asset.artifact or await _fetched(context, id)
    if artifact is None:
        error = Unavailable(f"Model {name}:{version} is still being fetched. `mafunzo job list` shows how far it is.")
        return JSONResponse(error_body(error), error.status, {"Retry-After": "1"})
    await context.in_thread(lambda: context.workspace.models.show(asset, artifact))
    signature = context.sas.sign(REGISTRY_CONTAINER, f"{READ}{LIST}")
    return JSONResponse(upload_body(f"{context.place.base}/{REGISTRY_CONTAINER}", signature))


def require_registry(name: str) -> None:
    """Raise `NotFound` for another registry than the one."""
    if name.lower() != REGISTRY:
        raise NotFound(f"No registry is called '{name}'. There is '{REGISTRY}'.")


async def _fetched(context: AzureContext, id: str) -> str | None:
    """Return the artifact of a catalogue model, or None where its download takes longer than a request may.

    Raises `Conflict` where it failed, since clients try again after an error of the server's.
    """
    job = await context.in_thread(lambda: context.workspace.models.import_once(id))
    for _ in range(int(PATIENCE_S / POLL_S)):
        if await context.in_thread(lambda: job.status.is_terminal):
            break
        await asyncio.sleep(POLL_S)
    else:
        return None
    try:
        return await context.in_thread(lambda: job.wait().output_artifact("model"))
    except FailedError as error:
        raise Conflict(f"{id} can't be fetched: {error}") from error
