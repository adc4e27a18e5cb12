"""Models, data, components, environments and code of the workspace: one set of routes for every kind of asset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.version import archive_all, referenced, registered
from mafunzo.entities.asset import Asset, AssetType, home_path
from mafunzo.entities.reference import AssetReference
from mafunzo.entrypoints.azure.context import AzureContext, azure_context, body_of
from mafunzo.entrypoints.azure.routes.page import listed, paged
from mafunzo.entrypoints.azure.routes.path import WS
from mafunzo.entrypoints.azure.routes.version import add_asset_routes
from mafunzo.entrypoints.azure.sas import READ, WRITE
from mafunzo.entrypoints.azure.wire import asset as asset_wire
from mafunzo.entrypoints.azure.wire import code as code_wire
from mafunzo.entrypoints.azure.wire import component as component_wire
from mafunzo.entrypoints.azure.wire.environment import environment_body, request_from_body
from mafunzo.errors import NotFound

DEFAULT_VERSION = "azureml_default"
"""The SDK's version label of a component's newest version."""

router = APIRouter()


@dataclass(frozen=True)
class Kind:
    """What differs between kinds: how a version is written, and how one is registered from a PUT's body.

    offered: the versions of a name that nobody has registered, all or the requested one.
    show: publishes a version's files as blobs at the URI in its body. hides_anonymous: whether a list of names leaves out
    anonymous assets.
    """

    type: AssetType
    body: Callable[[Asset], dict[str, Any]]
    put: Callable[[Workspace, Mapping[str, Any], str, str], Asset]
    offered: Callable[[Workspace, str, str | None], list[Asset]] = lambda *_: []
    show: Callable[[Workspace, Asset], None] = lambda *_: None
    hides_anonymous: bool = False


KINDS: Mapping[str, Kind] = {
    "models": Kind(
        AssetType.MODEL,
        lambda asset: asset_wire.model_body(asset, asset_wire.model_uri(asset)),
        lambda workspace, body, name, version: workspace.models.register_from(
            asset_wire.model_from_body(body), name, version
        ),
        show=lambda workspace, asset: _show_model(workspace, asset),
    ),
    "data": Kind(
        AssetType.DATA,
        asset_wire.data_body,
        lambda workspace, body, name, version: workspace.data.register_from(
            asset_wire.data_from_body(name, body), name, version
        ),
    ),
    "components": Kind(
        AssetType.COMPONENT,
        asset_wire.component_version_body,
        lambda workspace, body, name, version: workspace.components.register(
            component_wire.request_from_body(name, version, body)
        ),
        hides_anonymous=True,
    ),
    "environments": Kind(
        AssetType.ENVIRONMENT,
        environment_body,
        lambda workspace, body, name, version: workspace.environments.register_from(
            request_from_body(name, version, body), name, version
        ),
        offered=lambda workspace, name, version: workspace.environments.on_offer(name, version),
    ),
    "codes": Kind(
        AssetType.CODE,
        code_wire.code_body,
        lambda workspace, body, name, version: workspace.codes.register_from(
            code_wire.code_from_body(body), name, version
        ),
        hides_anonymous=True,
    ),
}
"""By their noun in paths."""


def _add_routes(noun: str, kind: Kind) -> None:
    """Add the routes of one kind of asset."""

    def list_names(request: Request) -> Any:
        """List the names, each with its newest version."""
        return _names(request, kind, _registered(request, kind))

    def get_container(request: Request, name: str) -> Any:
        """Return the container of all versions of a name."""
        return _container(kind, name, _registered(request, kind, name))

    async def put_container(request: Request, name: str) -> Response:
        """Archive all versions of a name, or restore them."""
        context, body = azure_context(request), await body_of(request)
        is_archived = bool((body.get("properties") or {}).get("isArchived", False))
        versions = await context.in_thread(
            lambda: archive_all(context.workspace.services, kind.type, name, is_archived)
        )
        return JSONResponse(_container(kind, name, versions))

    def list_versions(request: Request, name: str) -> Any:
        """List the versions of a name, newest first; the files of those on the page are published as blobs."""
        versions = [asset for asset in _registered(request, kind, name) if _has_hash(request, asset)]
        answer = paged(
            request, [kind.body(asset) for asset in listed(request, versions, lambda asset: asset.is_archived)]
        )
        names = {body["name"] for body in answer["value"]}
        for asset in versions:
            if asset.version in names:
                kind.show(azure_context(request).workspace, asset)
        return answer

    def get_version(request: Request, name: str, version: str) -> Any:
        """Return one version; its files are published as blobs."""
        workspace = azure_context(request).workspace
        asset = _version(workspace, kind, name, version)
        kind.show(workspace, asset)
        return kind.body(asset)

    async def put_version(request: Request, name: str, version: str) -> Response:
        """Register a version, or change a version's mutable fields."""
        context, body = azure_context(request), await body_of(request)
        asset_wire.require_name(kind.type, name, version)

        def put() -> Asset:
            asset = kind.put(context.workspace, body, name, version)
            kind.show(context.workspace, asset)
            return asset

        return JSONResponse(kind.body(await context.in_thread(put)), status_code=201)

    add_asset_routes(
        router,
        f"{WS}/{noun}",
        noun,
        list_names=list_names,
        get_container=get_container,
        put_container=put_container,
        list_versions=list_versions,
        get_version=get_version,
        put_version=put_version,
    )


for _noun, _kind in KINDS.items():
    _add_routes(_noun, _kind)


@router.post(f"{WS}/codes/{{name}}/versions/{{version}}/startPendingUpload")
def start_upload(request: Request) -> Any:
    """Create a blob container to upload a folder into, and return its shared access signature."""
    context = azure_context(request)
    name = context.workspace.codes.new_container()
    return code_wire.upload_body(blob_address(context, name), context.sas.sign(name, f"{READ}c{WRITE}l"))


def blob_address(context: AzureContext, container: str) -> str:
    """Return the address of a container of blobs."""
    return f"{context.place.base}{context.place.blob_root}/{container}"


def _container(kind: Kind, name: str, versions: Sequence[Asset]) -> Any:
    """Return the container of an asset's versions, which are sorted newest first; raises `NotFound` for none."""
    if not versions:
        raise NotFound(f"No {kind.type} '{name}' is registered.")
    return asset_wire.container_body(kind.type, name, [kind.body(asset) for asset in versions])


def _names(request: Request, kind: Kind, assets: Sequence[Asset]) -> Any:
    """Return a page of the names of assets, each with its newest version."""
    view = listed(request, assets, lambda asset: asset.is_archived)
    names = dict.fromkeys(asset.name for asset in view)
    return paged(request, [_container(kind, name, [a for a in view if a.name == name]) for name in names])


def _registered(request: Request, kind: Kind, name: str | None = None) -> list[Asset]:
    workspace = azure_context(request).workspace
    assets = registered(workspace.services, kind.type, name) or (kind.offered(workspace, name, None) if name else [])
    return [asset for asset in assets if name or not (asset.is_anonymous and kind.hides_anonymous)]


def _show_model(workspace: Workspace, asset: Asset) -> None:
    if asset.artifact is not None and home_path(asset):
        workspace.models.show(asset, asset.artifact)


def _has_hash(request: Request, asset: Asset) -> bool:
    hash = request.query_params.get("hash")
    return hash is None or asset.properties.get("hash") == hash


def _version(workspace: Workspace, kind: Kind, name: str, version: str) -> Asset:
    if version == DEFAULT_VERSION:
        return referenced(workspace.services, kind.type, AssetReference(name))
    if (offered := kind.offered(workspace, name, version)) and not registered(workspace.services, kind.type, name):
        return offered[0]
    return referenced(workspace.services, kind.type, AssetReference(name, version))
