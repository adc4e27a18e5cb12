"""Versions of assets, one rule for every kind: content never changes, and what is said of it may."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from mafunzo.control.workspace.services import Services
from mafunzo.entities.asset import (
    REGISTRY_SCOPE,
    WORKSPACE_SCOPE,
    Asset,
    AssetKey,
    AssetType,
    FolderType,
    next_version,
)
from mafunzo.entities.asset_request import ShareRequest, VersionRequest
from mafunzo.entities.reference import AssetReference, parse_reference
from mafunzo.entities.scan import Scan
from mafunzo.errors import NotFound, VersionTaken

T = TypeVar("T")
Assets = list[Asset]  # the class below has a verb called list
Names = list[str]
Positioned = Iterator[tuple[int, T]]


class Versions:
    """The verbs that one kind of asset has in common with the others, in the workspace and in the registry."""

    def __init__(self, services: Services, kind: AssetType) -> None:
        self._services = services
        self.kind = kind

    def list(self, name: str | None = None, scope: str = WORKSPACE_SCOPE) -> Assets:
        """Return the versions of a name, or of all names, archived ones too, newest first."""
        return self._services.records.assets.list(scope, self.kind, name, with_archived=True)

    def page(
        self,
        limit: int | None,
        before: str | None,
        name: str | None = None,
        with_archived: bool = False,
        with_anonymous: bool = True,
    ) -> Assets:
        """Return up to `limit` versions of the workspace that are older than the one called `before`, the newest first.

        Raises `NotFound` where there is none such.
        """
        key = None if before is None else self._key(before)
        return self._services.records.assets.list(
            WORKSPACE_SCOPE, self.kind, name, with_archived, with_anonymous, limit, key
        )

    def scan(
        self, scan: Scan, name: str | None = None, is_archived: bool | None = None, scope: str = WORKSPACE_SCOPE
    ) -> Positioned[Asset]:
        """Yield the versions of a name, or of all, with their positions in the list, read as they are needed.

        is_archived: only those that are, or that aren't; None for both.
        """
        return self._services.records.assets.scan(scan, scope, self.kind, name, is_archived)

    def scan_names(
        self, scan: Scan, is_archived: bool | None = None, with_anonymous: bool = True, scope: str = WORKSPACE_SCOPE
    ) -> Positioned[str]:
        """Yield the names that have such versions, each once, with their positions in the list, read as they are needed."""
        return self._services.records.assets.scan_names(scan, scope, self.kind, is_archived, with_anonymous)

    def has(self, name: str, scope: str = WORKSPACE_SCOPE, with_archived: bool = True) -> bool:
        """Return whether a name has a version, be it archived; without archived ones, whether one is active."""
        return bool(self._services.records.assets.list(scope, self.kind, name, with_archived, limit=1))

    def names_of(self, name: str, scope: str = WORKSPACE_SCOPE) -> Names:
        """Return what the versions of a name are called, newest first."""
        return self._services.records.assets.versions(scope, self.kind, name)

    def find(self, name: str, version: str) -> Asset | None:
        """Return a version of the workspace, or None."""
        return self._services.records.assets.find(AssetKey(WORKSPACE_SCOPE, self.kind, name, version))

    def get(self, reference: AssetReference) -> Asset:
        """Return the version that a reference names: by number, by label, or the newest. Raises `NotFound`."""
        records, scope = self._services.records, scope_of(reference)
        if reference.version is not None:
            return records.assets.get(AssetKey(scope, self.kind, reference.name, reference.version))
        return records.labels.get(scope, self.kind, reference.name, reference.label or "latest")

    def next(self, name: str) -> str:
        """Return the number of a version that is to be added to a name."""
        return next_version(self._services.records.assets.versions(WORKSPACE_SCOPE, self.kind, name))

    def put(
        self,
        name: str,
        version: str,
        request: VersionRequest,
        properties: Mapping[str, Any],
        artifact: str | None = None,
        folder_type: FolderType = FolderType.URI_FOLDER,
        is_replaced: bool = False,
    ) -> Asset:
        """Add a version, or change what may change of one that exists: description, tags, whether it is archived.

        What a way in keeps of its own (`echoes`) goes with the newest request, and isn't content. properties: the facts of its
        kind; is_replaced: they may change too, as those of one without a name of its own, whose version says its content.
        Raises `VersionTaken` for other content (`artifact`, `folder_type`, `properties`) under a version that exists.
        """
        known = self.find(name, version)
        asset = Asset(
            key=AssetKey(WORKSPACE_SCOPE, self.kind, name, version),
            folder_type=folder_type,
            artifact=artifact,
            description=request.description,
            tags=request.tags,
            properties=properties,
            is_archived=request.is_archived,
            is_anonymous=request.is_anonymous,
            created_by=known.created_by if known else self._services.user,
            created_at=known.created_at if known else datetime.now(UTC),
            echoes=request.echoes,
        )
        if known is None:
            return self._services.records.assets.add(asset)
        is_same = (known.artifact, known.folder_type) == (artifact, folder_type)
        if not is_same or (known.properties != properties and not is_replaced):
            raise taken(known)
        self._services.records.assets.update(asset)
        return asset

    def change(self, version: Asset, **changes: Any) -> Asset:
        """Change fields of a version (`description`, `tags`, `is_archived` ...), never its bytes, and return it."""
        changed = dataclasses.replace(version, **changes)
        self._services.records.assets.update(changed)
        return changed

    def archive(self, reference: str, is_archived: bool = True) -> Assets:
        """Hide the version that `name:version` names, or all of `name`, or show them again. Raises `NotFound`."""
        parsed = parse_reference(reference)
        if not isinstance(parsed, AssetReference):
            raise NotFound(f"'{reference}' doesn't name a registered {self.kind}, expected NAME or NAME:VERSION.")
        if parsed.version is None and parsed.label is None:
            return self.archive_all(parsed.name, is_archived)
        return [self.change(self.get(parsed), is_archived=is_archived)]

    def archive_all(self, name: str, is_archived: bool, scope: str = WORKSPACE_SCOPE) -> Assets:
        """Hide all versions of a name from lists, or show them again; return them, newest first. Raises `NotFound`."""
        versions = self.list(name, scope)
        if not versions:
            raise NotFound(f"No {self.kind} '{name}' is registered.")
        return [self.change(version, is_archived=is_archived) for version in versions]

    def share(self, request: ShareRequest) -> Asset:
        """Copy a version of the workspace to the registry. Raises `NotFound`, and `Conflict` where it exists there."""
        asset = self.get(request.source)
        key = AssetKey(REGISTRY_SCOPE, self.kind, request.name, request.version or asset.version)
        copy = dataclasses.replace(
            asset, key=key, is_archived=False, created_by=self._services.user, created_at=datetime.now(UTC)
        )
        return self._services.records.assets.add(copy)

    def _key(self, text: str) -> AssetKey:
        name, colon, version = text.rpartition(":")
        if not colon:
            raise NotFound(f"'{text}' doesn't name a version, expected NAME:VERSION as the list shows them.")
        return AssetKey(WORKSPACE_SCOPE, self.kind, name, version)


def followed_by(
    offers: Callable[[], Sequence[T]],
    name_of: Callable[[T], str],
    registered: Callable[[str | None], list[T]],
    limit: int | None,
    before: str | None,
) -> list[T]:
    """Return up to `limit` of what is registered, and then of what is on offer, after the one called `before`.

    registered: returns what is after the one called so, or from the start, as far as the limit goes. offers: reads what is on
    offer, which isn't done for a first page that has no room for it.
    """
    if before is not None:
        offered = offers()
        names = [name_of(offer) for offer in offered]
        if before in names:
            return [*offered[names.index(before) + 1 :]][:limit]
    found = registered(before)
    return found if limit is not None and len(found) >= limit else [*found, *offers()][:limit]


def scope_of(reference: AssetReference) -> str:
    """Return where a reference looks: in the registry, or in the workspace."""
    return WORKSPACE_SCOPE if reference.registry is None else REGISTRY_SCOPE


def taken(asset: Asset) -> VersionTaken:
    """Return the error for other content under the name of a version that exists."""
    return VersionTaken(
        f"{str(asset.key.type).capitalize()} {asset.key} exists already, with other content. "
        "A version never changes; choose another one.",
        has_files=asset.artifact is not None,
    )
