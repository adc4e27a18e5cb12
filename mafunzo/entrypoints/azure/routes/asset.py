"""Models, data, components, environments and code: one set of routes for every type of asset, in either scope."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.shipped_component import shipped_interface, shipped_names
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType, home_path
from mafunzo.entities.reference import AssetReference, JobOutputReference
from mafunzo.entities.scan import Scan
from mafunzo.entrypoints.azure.context import Azure, AzureContext, Body
from mafunzo.entrypoints.azure.reference import NOUNS, OUTPUT_DATA
from mafunzo.entrypoints.azure.registration import register
from mafunzo.entrypoints.azure.routes.page import archived_view, listed, paged, scan_of, scrolled
from mafunzo.entrypoints.azure.sas import READ, WRITE
from mafunzo.entrypoints.azure.wire import asset as asset_wire
from mafunzo.entrypoints.azure.wire import component as component_wire
from mafunzo.entrypoints.azure.wire.envelope import BLOB_ROOT, WS
from mafunzo.entrypoints.azure.wire.environment import environment_body
from mafunzo.entrypoints.http.listing import shown
from mafunzo.errors import NotFound

DEFAULT_VERSION = "azureml_default"
"""The SDK's version label of a component's newest version."""
BODIES: Mapping[AssetType, Callable[[Asset, str], dict[str, Any]]] = {
    AssetType.MODEL: asset_wire.model_body,
    AssetType.DATA: lambda asset, _: asset_wire.data_body(asset),
    AssetType.COMPONENT: lambda asset, _: component_wire.component_version_body(asset),
    AssetType.ENVIRONMENT: lambda asset, _: environment_body(asset),
    AssetType.CODE: lambda asset, _: asset_wire.code_body(asset),
}
"""How a GET answers a version, with the server's https address."""
OFFERS: Mapping[AssetType, Callable[[Workspace, str | None, str | None], Iterable[Asset]]] = {
    AssetType.MODEL: lambda workspace, name, _: workspace.models.on_offer(name),
    AssetType.COMPONENT: lambda _, name, __: [
        component_wire.shipped_asset(shipped_interface(one)) for one in shipped_names() if name in (None, one)
    ],
    AssetType.ENVIRONMENT: lambda workspace, name, version: workspace.environments.on_offer(name, version),
}
"""The versions that ship with Mafunzo: of all names or of one, all or the requested one."""

router = APIRouter()


@dataclass(frozen=True)
class AssetRoutes:
    """The routes of one type of asset in the workspace."""

    type: AssetType
    path: ClassVar[str] = WS
    name: ClassVar[str] = ""
    """The scope's in the names of routes."""
    scope: ClassVar[str] = WORKSPACE_SCOPE

    def add_to(self, router: APIRouter) -> None:
        """Add the routes, which are named after the type's noun."""
        noun = f"{self.name}{NOUNS[self.type]}"
        container = f"{self.path}/{NOUNS[self.type]}/{{name}}"
        version = f"{container}/versions/{{version}}"
        for path, name, method, handler in (
            (f"{self.path}/{NOUNS[self.type]}", f"list_{noun}", "GET", self.list_names),
            (container, f"get_{noun}_container", "GET", self.get_container),
            (container, f"put_{noun}_container", "PUT", self.put_container),
            (f"{container}/versions", f"list_{noun}_versions", "GET", self.list_versions),
            (version, f"get_{noun}_version", "GET", self.get_version),
            (version, f"put_{noun}_version", "PUT", self.put_version),
        ):
            router.add_api_route(path, handler, methods=[method], name=name)

    def list_names(self, request: Request, azure: Azure) -> Any:
        """List the names, each with its newest version; code and components without a name of their own are left out."""
        is_hidden = self.type in (AssetType.CODE, AssetType.COMPONENT)
        names = azure.workspace.versions[self.type].scan_names(
            scan_of(request), archived_view(request), not is_hidden, self.scope
        )
        return scrolled(request, names, lambda name: self.container(azure, name, archived_view(request)))

    def get_container(self, azure: Azure, name: str) -> Any:
        """Return the container of all versions of a name."""
        return self.container(azure, name)

    def put_container(self, request: Request, azure: Azure, name: str, body: Body) -> Response:
        """Archive all versions of a name, or restore them."""
        is_archived = bool((body.get("properties") or {}).get("isArchived", False))
        azure.workspace.versions[self.type].archive_all(name, is_archived, self.scope)
        return JSONResponse(self.container(azure, name))

    def list_versions(self, request: Request, azure: Azure, name: str) -> Any:
        """List the versions of a name, newest first; the files of those on the page are published as blobs."""
        hash, stage = request.query_params.get("hash"), request.query_params.get("stage", "")

        def matches(one: Asset) -> bool:
            return (hash is None or one.properties.get("hash") == hash) and asset_wire.is_in_stage(one, stage)

        registered = azure.workspace.versions[self.type]
        if not registered.has(name, self.scope):
            offers = listed(request, filter(matches, self.offered(azure, name)), lambda asset: asset.is_archived)
            return paged(request, offers, lambda asset: self.published(azure, asset))
        versions = registered.scan(scan_of(request), name, archived_view(request), self.scope)
        return scrolled(
            request,
            ((position, one) for position, one in versions if matches(one)),
            lambda asset: self.published(azure, asset),
        )

    def get_version(self, azure: Azure, name: str, version: str) -> Any:
        """Return one version; its files are published as blobs."""
        return self.published(azure, self.version(azure, name, version))

    def put_version(self, request: Request, azure: Azure, name: str, version: str, body: Body) -> Response:
        """Register a version, or change a version's mutable fields."""
        asset_wire.require_name(self.type, name, version)
        asset = register(azure.workspace, self.type, name, version, body)
        return JSONResponse(self.published(azure, asset), 201)

    def registered(self, azure: AzureContext, name: str | None = None) -> list[Asset]:
        """Return what is registered in the scope: all, or the versions of a name, newest first."""
        return azure.workspace.versions[self.type].list(name, self.scope)

    def offered(self, azure: AzureContext, name: str | None, version: str | None = None) -> list[Asset]:
        """Return the versions of a name that nobody has registered.

        In the workspace these are those of a curated environment, and the data that is an output of a job by itself.
        """
        offers = {AssetType.ENVIRONMENT: OFFERS[AssetType.ENVIRONMENT], AssetType.DATA: _output_data}
        return list(offers[self.type](azure.workspace, name, version)) if self.type in offers else []

    def versions(self, azure: AzureContext, name: str, version: str | None = None) -> list[Asset]:
        """Return the versions of a name, newest first; `version` is the requested one, if any."""
        return self.registered(azure, name) or self.offered(azure, name, version)

    def version(self, azure: AzureContext, name: str, version: str) -> Asset:
        """Return a version of a name; raises `NotFound`."""
        if version == DEFAULT_VERSION:
            return azure.workspace.versions[self.type].get(AssetReference(name))
        if (offered := self.offered(azure, name, version)) and not self.registered(azure, name):
            return offered[0]
        return azure.workspace.versions[self.type].get(AssetReference(name, version))

    def body(self, azure: AzureContext, asset: Asset) -> dict[str, Any]:
        """Return a version as a GET answers it."""
        return BODIES[self.type](asset, azure.place.base)

    def published(self, azure: AzureContext, asset: Asset) -> dict[str, Any]:
        """Publish a version's files as blobs, and return it as a GET answers it."""
        self.show(azure, asset)
        return self.body(azure, asset)

    def container(self, azure: AzureContext, name: str, is_archived: bool | None = None) -> dict[str, Any]:
        """Return the container of an asset's versions; raises `NotFound` for none.

        is_archived: which of them are shown, those that are archived or those that aren't; None for both. The first that can be
        shown is the newest.
        """
        registered = azure.workspace.versions[self.type]
        if registered.has(name, self.scope):
            assets: Iterator[Asset] = (one for _, one in registered.scan(Scan(size=2), name, is_archived, self.scope))
            names = registered.names_of(name, self.scope)
            has_active = registered.has(name, self.scope, with_archived=False)
        else:
            offers = self.offered(azure, name)
            assets, names, has_active = iter(offers), [one.version for one in offers], True
        newest = next(shown(assets, lambda asset: self.body(azure, asset)), None)
        if newest is None:
            raise self.nothing(azure, name)
        return asset_wire.container_body(self.type, name, newest, names, is_archived=not has_active)

    def nothing(self, azure: AzureContext, name: str) -> NotFound:
        """Return the error for a name without versions."""
        return NotFound(f"No {self.type} '{name}' is registered.")

    def show(self, azure: AzureContext, asset: Asset) -> None:
        """Publish the files of a model as blobs at the URI in its body."""
        if asset.key.type is AssetType.MODEL and asset.artifact is not None and home_path(asset):
            azure.workspace.models.show(asset, asset.artifact)


def _output_data(workspace: Workspace, name: str | None, version: str | None) -> list[Asset]:
    """Return an output of a job as the data that Azure registers it as, once it is there."""
    match = OUTPUT_DATA.fullmatch(name or "")
    if match is None or version not in (None, "1"):
        return []
    try:
        handle, step = workspace.jobs.find(match["job"])
    except NotFound:
        return []
    name_of_step = step.name if step else None
    artifact, kind = (
        handle.written(name_of_step).get(match["output"]),
        handle.output_type(match["output"], name_of_step),
    )
    source = asdict(JobOutputReference(match["job"], match["output"]))
    key = AssetKey(WORKSPACE_SCOPE, AssetType.DATA, match[0], "1")
    folder_type = kind if kind in asset_wire.DATA_TYPES else FolderType.URI_FOLDER
    return [Asset(key, FolderType(folder_type), artifact, properties={"source": source})] if artifact else []


for _type in NOUNS:
    AssetRoutes(_type).add_to(router)


@router.post(f"{WS}/codes/{{name}}/versions/{{version}}/startPendingUpload")
def start_upload(azure: Azure) -> Any:
    """Create a blob container to upload a folder into, and return its shared access signature."""
    name = azure.workspace.codes.new_container()
    address = f"{azure.place.base}{BLOB_ROOT}/{name}"
    return asset_wire.upload_body(address, azure.sas.sign(name, f"{READ}c{WRITE}l"))
