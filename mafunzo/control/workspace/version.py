"""Versions that never change: one rule for every kind of asset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mafunzo.control.workspace.services import Services
from mafunzo.entities.asset import REGISTRY_SCOPE, WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.asset_request import ShareRequest, VersionRequest
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import Conflict, NotFound


def registered(
    services: Services, kind: AssetType, name: str | None = None, scope: str = WORKSPACE_SCOPE
) -> list[Asset]:
    """Return the versions of the workspace's assets of a kind, archived ones too, newest first."""
    return services.records.assets.list(scope, kind, name, with_archived=True)


def referenced(services: Services, kind: AssetType, reference: AssetReference) -> Asset:
    """Return the registered version that a reference names: by number, by label, or the newest. Raises `NotFound`."""
    records, scope = services.records, scope_of(reference)
    if reference.version is not None:
        return records.assets.get(AssetKey(scope, kind, reference.name, reference.version))
    return records.labels.get(scope, kind, reference.name, reference.label or "latest")


def scope_of(reference: AssetReference) -> str:
    """Return where a reference looks: in the registry, or in the workspace."""
    return WORKSPACE_SCOPE if reference.registry is None else REGISTRY_SCOPE


def share(services: Services, kind: AssetType, request: ShareRequest) -> Asset:
    """Copy a version of the workspace to the registry. Raises `NotFound`, and `Conflict` where that version exists there."""
    asset = referenced(services, kind, request.source)
    key = AssetKey(REGISTRY_SCOPE, kind, request.name, request.version or asset.version)
    return services.records.assets.add(
        dataclasses.replace(asset, key=key, is_archived=False, created_by=services.user, created_at=datetime.now(UTC))
    )


def put_version(services: Services, asset: Asset, is_replaced: bool = False) -> Asset:
    """Add a version, or change what may change of one that exists: description, tags, whether it is archived.

    What a way in keeps of its own (`echoes`) goes with the newest request, and isn't content. is_replaced: the properties may
    change too, as those of one without a name of its own, whose version says its content.
    Raises `Conflict` for other content (`artifact`, `folder_type`, `properties`) under the name of a version that exists.
    """
    known = {one.version: one for one in registered(services, asset.key.type, asset.name)}.get(asset.version)
    if known is None:
        new_version = dataclasses.replace(asset, created_by=services.user, created_at=datetime.now(UTC))
        return services.records.assets.add(new_version)
    is_same = (known.artifact, known.folder_type) == (asset.artifact, asset.folder_type)
    if not is_same or (known.properties != asset.properties and not is_replaced):
        raise taken(known)
    changed = dataclasses.replace(asset, created_by=known.created_by, created_at=known.created_at)
    services.records.assets.update(changed)
    return changed


def taken(asset: Asset) -> Conflict:
    """Return the error for other content under the name of a version that exists, which for files clients know by its words."""
    files = "Asset paths cannot be updated. " if asset.artifact else ""
    return Conflict(
        f"{files}{str(asset.key.type).capitalize()} {asset.key} exists already, with other content. "
        "A version never changes; choose another one."
    )


def archive_all(
    services: Services, kind: AssetType, name: str, is_archived: bool, scope: str = WORKSPACE_SCOPE
) -> list[Asset]:
    """Hide all versions of a name from lists, or show them again; return them, newest first. Raises `NotFound`."""
    versions = registered(services, kind, name, scope)
    if not versions:
        raise NotFound(f"No {kind} '{name}' is registered.")
    changed = [dataclasses.replace(asset, is_archived=is_archived) for asset in versions]
    for asset in changed:
        services.records.assets.update(asset)
    return changed


def version_of(
    kind: AssetType,
    name: str,
    version: str,
    request: VersionRequest,
    properties: Mapping[str, Any],
    artifact: str | None = None,
    folder_type: FolderType = FolderType.URI_FOLDER,
) -> Asset:
    """Return the version of the workspace that a request describes. properties: the facts of its kind."""
    return Asset(
        key=AssetKey(WORKSPACE_SCOPE, kind, name, version),
        folder_type=folder_type,
        artifact=artifact,
        description=request.description,
        tags=request.tags,
        properties=properties,
        is_archived=request.is_archived,
        is_anonymous=request.is_anonymous,
        echoes=request.echoes,
    )


def change_version(services: Services, known: Asset, request: VersionRequest) -> Asset:
    """Change what may change of a registered version: description, tags, whether it is archived; return it."""
    changed = dataclasses.replace(
        known, description=request.description, tags=request.tags, is_archived=request.is_archived
    )
    services.records.assets.update(changed)
    return changed
