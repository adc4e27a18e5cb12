"""The registry: the catalogue's models, and the components and environments that ship with Mafunzo, and what users share."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.entities.asset import REGISTRY_SCOPE, Asset, AssetType
from mafunzo.entities.blob import REGISTRY_CONTAINER
from mafunzo.entrypoints.azure.context import Azure, AzureContext, Body, azure_context, require_registry
from mafunzo.entrypoints.azure.reference import NOUNS
from mafunzo.entrypoints.azure.routes.asset import OFFERS, AssetRoutes
from mafunzo.entrypoints.azure.routes.page import OFFER, archived_view, offer_index, scan_of, scrolled
from mafunzo.entrypoints.azure.routes.refused import refusal
from mafunzo.entrypoints.azure.sas import LIST, READ
from mafunzo.entrypoints.azure.wire import asset as asset_wire
from mafunzo.entrypoints.azure.wire import envelope
from mafunzo.errors import Conflict, FailedError, NotFound, NotSupported, Unavailable, did_you_mean

PATIENCE_S = 240.0
"""For how long one request waits for a model that is being fetched; the client, which waits for 300, then asks again."""
POLL_S = 0.3
MOST_NAMES = 20
"""How many names an error lists."""
_INSTEAD: tuple[tuple[AssetType, re.Pattern[str], str], ...] = (
    (
        AssetType.COMPONENT,
        re.compile(r"(oss_)?(text_generation|chat_completion|question_answering|summarization|translation).*"),
        "Use chat_completion_pipeline: give each row as messages, the text as the user's and what to write as the assistant's.",
    ),
    (
        AssetType.COMPONENT,
        re.compile(
            r"(oss_)?(text|token|image)_?(classification|generation_eval|.*embedding).*|.*image.*|.*object_detection.*"
        ),
        "Only chat models are tuned here: use chat_completion_pipeline with messages, or a command of your own.",
    ),
    (
        AssetType.COMPONENT,
        re.compile(r".*(evaluat|model_prediction|compute_metrics|batch).*"),
        "chat_completion_pipeline evaluates the tuned model against its base; for anything else run a command of your own.",
    ),
    (
        AssetType.COMPONENT,
        re.compile(
            r".*(import|convert|register|deploy|package).*model.*|.*model.*(import|convert|register|deploy|package).*"
        ),
        "Use import_model, or models.create_or_update and online_deployments of the workspace's client.",
    ),
    (
        AssetType.MODEL,
        re.compile(r"(?i).*(bert|gpt-?2|t5|bart|vit|whisper|clip).*"),
        "Only chat models are on offer. Another model is registered from its folder: models.create_or_update.",
    ),
)
"""By the type and the name of what Azure's registry has and this one hasn't: what to use instead, in one line."""

public = APIRouter()
router = APIRouter()


@dataclass(frozen=True)
class RegistryRoutes(AssetRoutes):
    """The routes of one type of asset in the registry: what ships with Mafunzo stays as it is, what is shared may change."""

    path: ClassVar[str] = envelope.REG
    name: ClassVar[str] = "registry_"
    scope: ClassVar[str] = REGISTRY_SCOPE

    def list_names(self, request: Request, azure: Azure) -> Any:
        """List the names, each with its newest version: those that are shared, then those that ship with Mafunzo."""
        first = offer_index(request)
        shared: Iterator[tuple[int | str, str]] = iter(()) if first else self._shared_names(request, azure)
        names = chain(shared, self._offered_names(request, azure, first))
        return scrolled(request, names, lambda name: self.container(azure, name))

    def _shared_names(self, request: Request, azure: AzureContext) -> Iterator[tuple[int | str, str]]:
        """Yield the names of which an active version is shared, or none, as the list's view is."""
        shared, view = azure.workspace.versions[self.type], archived_view(request)
        for position, name in shared.scan_names(scan_of(request), view, scope=self.scope):
            if not (view and shared.has(name, self.scope, with_archived=False)):
                yield position, name

    def _offered_names(self, request: Request, azure: AzureContext, first: int) -> Iterator[tuple[int | str, str]]:
        shared = azure.workspace.versions[self.type]
        names = [] if archived_view(request) else list(dict.fromkeys(one.name for one in self.offered(azure, None)))
        for index, name in enumerate(names[first:], start=first + 1):
            if not shared.has(name, self.scope):
                yield f"{OFFER}{index}", name

    def put_container(self, request: Request, azure: Azure, name: str, body: Body) -> Response:
        """Archive all versions of a shared name, or restore them."""
        if not self.registered(azure, name):
            raise refusal(request.method, request.url.path)
        answer = super().put_container(request, azure, name, body)
        answer.status_code = 201
        return answer

    def put_version(self, request: Request, azure: Azure, name: str, version: str, body: Body) -> Response:
        """Change a shared version's mutable fields: description, tags, whether it is archived."""
        change = asset_wire.version_from_body(body)
        shared = {asset.version: asset for asset in self.registered(azure, name)}
        if version not in shared:
            raise refusal(request.method, request.url.path)
        changed = azure.workspace.versions[self.type].change(
            shared[version], description=change.description, tags=change.tags, is_archived=change.is_archived
        )
        # Older clients take no other status.
        return JSONResponse(self.body(azure, changed), 202, {"Retry-After": "1"})

    def offered(self, azure: AzureContext, name: str | None, version: str | None = None) -> list[Asset]:
        """Return the versions that ship with Mafunzo, of a name or of all."""
        return list(OFFERS[self.type](azure.workspace, name, version)) if self.type in OFFERS else []

    def version(self, azure: AzureContext, name: str, version: str) -> Asset:
        """Return a version of a name; raises `NotFound`."""
        versions = {asset.version: asset for asset in self.versions(azure, name, version)}
        if not versions:
            raise self.nothing(azure, name)
        if version not in versions:
            raise NotFound(f"The registry has {self.type} '{name}' of version {', '.join(versions)}, not {version}.")
        return versions[version]

    def nothing(self, azure: AzureContext, name: str) -> NotFound:
        """Return the error for a name without versions."""
        names = sorted({asset.name for asset in (*self.registered(azure), *self.offered(azure, None))})
        told = ", ".join(names[:MOST_NAMES]) or "none"
        rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        hint = instead_of(self.type, name) or did_you_mean(name, names)
        return NotFound(f"The registry has no {self.type} '{name}'.{hint} There are: {told}{rest}.")

    def show(self, azure: AzureContext, asset: Asset) -> None:
        """Do nothing: a model's files are published when a client asks for their address."""


def instead_of(type: AssetType, name: str) -> str:
    """Return what to use instead of something of Azure's registry; an empty text where nothing does the same."""
    lines = (line for of, names, line in _INSTEAD if of is type and names.fullmatch(name))
    return next((f" {line}" for line in lines), "")


SHELVES = {
    type: RegistryRoutes(type) for type in (AssetType.MODEL, AssetType.COMPONENT, AssetType.ENVIRONMENT, AssetType.DATA)
}
for _shelf in SHELVES.values():
    _shelf.add_to(router)


@public.get("/registrymanagement/v1.0/registries/{name}/discovery")
def discover_registry(request: Request, name: str) -> Any:
    """Return a registry's address: this server's."""
    require_registry(name)
    return {
        "registryName": name,
        "primaryRegion": envelope.LOCATION,
        "primaryRegionResourceProviderUri": f"{azure_context(request).place.base}/",
        "subscriptionId": envelope.SUBSCRIPTION,
        "resourceGroup": envelope.RESOURCE_GROUP,
    }


@router.get(f"{envelope.OF_GROUP}/registries")
@router.get(f"{envelope.OF_SUBSCRIPTION}/registries")
def list_registries(azure: Azure) -> Any:
    """List the one registry."""
    return envelope.page([get_registry(azure, envelope.REGISTRY)])


@router.get(envelope.REG)
def get_registry(azure: Azure, registry: str) -> Any:
    """Return the one registry."""
    properties = {
        "discoveryUrl": f"{azure.place.base}/registrymanagement/v1.0/registries/{registry}/discovery",
        "publicNetworkAccess": "Disabled",
        "regionDetails": [{"location": envelope.LOCATION}],
    }
    return envelope.resource(
        envelope.registry_arm_id(),
        envelope.REGISTRY,
        "registries",
        properties,
        location=envelope.LOCATION,
        tags={},
        kind="",
        systemData=envelope.system_data("catalogue", None),
    )


@router.post(f"{envelope.REG}/import")
def share_asset(azure: Azure, body: Body) -> Response:
    """Copy a version of the workspace to the registry, under a name that nothing has that ships with Mafunzo.

    The answer is empty: the SDK takes one that isn't for something else, and asks for the version in any case.
    """
    request = asset_wire.share_from_body(body)
    type = request.source.type
    if type not in SHELVES:
        raise NotSupported(f"{type} can't be shared. These can: {', '.join(NOUNS[one] for one in SHELVES)}.")
    if SHELVES[type].offered(azure, request.name):
        raise Conflict(f"The registry's {type} '{request.name}' ships with Mafunzo. Share under another name.")
    azure.workspace.versions[type].share(request)
    return Response(status_code=200)


@router.post(f"{envelope.REG}/datarefs/{{name}}/versions/{{version}}")
async def fetch_registry_model(azure: Azure, name: str, version: str) -> Response:
    """Download a catalogue model where it isn't yet, publish its files as blobs, and return their SAS."""
    id = envelope.registry_id("models", name, "versions", version)
    asset = await azure.in_thread(lambda: azure.workspace.models.get(id))
    artifact = asset.artifact or await _fetched(azure, id)
    if artifact is None:
        error = Unavailable(f"Model {name}:{version} is still being fetched. `mafunzo job list` shows how far it is.")
        return JSONResponse(envelope.error_body(error), error.status, {"Retry-After": "1"})
    await azure.in_thread(lambda: azure.workspace.models.show(asset, artifact))
    signature = azure.sas.sign(REGISTRY_CONTAINER, f"{READ}{LIST}")
    return JSONResponse(asset_wire.upload_body(f"{azure.place.base}/{REGISTRY_CONTAINER}", signature))


async def _fetched(azure: AzureContext, id: str) -> str | None:
    """Return the artifact of a catalogue model, or None where its download takes longer than a request may.

    Raises `Conflict` where it failed, since clients try again after an error of the server's.
    """
    job = await azure.in_thread(lambda: azure.workspace.models.import_once(id))
    for _ in range(int(PATIENCE_S / POLL_S)):
        if await azure.in_thread(lambda: job.status.is_terminal):
            break
        await asyncio.sleep(POLL_S)
    else:
        return None
    try:
        return await azure.in_thread(lambda: job.wait().output_artifact("model"))
    except FailedError as error:
        raise Conflict(f"{id} can't be fetched: {error}") from error
