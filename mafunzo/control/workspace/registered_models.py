"""The names of registered models: a name's description and tags, its labels, and its versions together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from mafunzo.control.workspace.models import Models, served_versions
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.versions import Versions
from mafunzo.entities.asset import (
    WORKSPACE_SCOPE,
    Asset,
    AssetKey,
    AssetType,
    FolderType,
    RegisteredModel,
    next_version,
)
from mafunzo.entities.scan import PAGE
from mafunzo.errors import Conflict, InvalidParameter, NotFound

NAME_SCOPE = "workspace:name"
"""Where what is said of a name is kept, under one version, so that a name may be there before its first version."""
FORBIDDEN = "/:@"
LARGE_PAGE = 1000
"""How many names are read at once where all of them are needed."""
Assets = list[Asset]  # the class below has a verb called list


class RegisteredModels:
    """The verbs on names of models."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._versions = Versions(services, AssetType.MODEL)

    def list(self) -> list[RegisteredModel]:
        """Return every name that was created, or that has versions, in order."""
        return sorted(self.scan(size=LARGE_PAGE), key=lambda model: model.name)

    def scan(self, after: str = "", size: int = PAGE) -> Iterator[RegisteredModel]:
        """Yield the names in the database's order, those after a name, `size` read at once as they are needed."""
        records, scopes = self._services.records, (WORKSPACE_SCOPE, NAME_SCOPE)
        while names := records.assets.names(scopes, AssetType.MODEL, size, after):
            name_records = records.assets.of_names(NAME_SCOPE, AssetType.MODEL, names)
            versions = records.assets.of_names(WORKSPACE_SCOPE, AssetType.MODEL, names)
            labels = records.labels.by_name(WORKSPACE_SCOPE, AssetType.MODEL, names)
            for name in names:
                if name_records[name] or versions[name]:  # else it was deleted meanwhile
                    yield self._model(name, next(iter(name_records[name]), None), versions[name], labels.get(name, {}))
            if len(names) < size:
                return
            after = names[-1]

    def has(self, name: str) -> bool:
        """Return whether a name was created, or has versions."""
        assets = self._services.records.assets
        return any(assets.list(scope, AssetType.MODEL, name, True, limit=1) for scope in (NAME_SCOPE, WORKSPACE_SCOPE))

    def labels(self, name: str) -> dict[str, str]:
        """Return the labels of a name, each with its version."""
        return self._services.records.labels.list(WORKSPACE_SCOPE, AssetType.MODEL, name)

    def find(self, name: str) -> RegisteredModel | None:
        """Return a name with its versions, or None."""
        records = self._services.records.assets.list(NAME_SCOPE, AssetType.MODEL, name)
        versions = self._versions.list(name)
        if not (records or versions):
            return None
        labels = self._services.records.labels.list(WORKSPACE_SCOPE, AssetType.MODEL, name)
        return self._model(name, records[0] if records else None, versions, labels)

    def get(self, name: str) -> RegisteredModel:
        """Return a name with its versions; raises `NotFound`."""
        model = self.find(name)
        if model is None:
            raise NotFound(f"No model is registered under the name '{name}'. `mafunzo model list` shows all.")
        return model

    def create(self, name: str, description: str = "", tags: Mapping[str, str] | None = None) -> RegisteredModel:
        """Add a name that has no versions yet. Raises `Conflict` when it is there, `InvalidParameter` for no name."""
        if not name or any(character in name for character in FORBIDDEN):
            raise InvalidParameter(f"The model's name is '{name}', expected one without any of {' '.join(FORBIDDEN)}.")
        if self.find(name) is not None:
            raise Conflict(f"A model is registered under the name '{name}' already.")
        self._services.records.assets.add(self._name_record(name, description, tags or {}))
        return self.get(name)

    def update(
        self, name: str, description: str | None = None, tags: Mapping[str, str] | None = None
    ) -> RegisteredModel:
        """Change a name's description or tags; None leaves one as it is. Raises `NotFound`."""
        known = self.get(name)
        records = self._services.records
        stored = records.assets.list(NAME_SCOPE, AssetType.MODEL, name)
        name_record = dataclasses.replace(
            stored[0] if stored else self._name_record(name, "", {}),
            description=known.description if description is None else description,
            tags=known.tags if tags is None else tags,
        )
        if stored:
            records.assets.update(name_record)
        else:
            records.assets.add(name_record)
        return self.get(name)

    def delete(self, name: str) -> None:
        """Delete a name with all of its versions. Raises `NotFound`, and `Conflict` when a deployment serves one of them."""
        model = self.get(name)
        served = served_versions(self._services, {str(version.key) for version in model.versions})
        if served:
            where = ", ".join(f"{place} ({', '.join(versions)})" for place, versions in served.items())
            raise Conflict(f"Model {name} is served by {where}. Delete the endpoint first.")
        for version in model.versions:
            Models(self._services).delete(str(version.key))
        for name_record in self._services.records.assets.list(NAME_SCOPE, AssetType.MODEL, name):
            self._services.records.assets.delete(name_record.key)

    def set_label(self, version: Asset, label: str) -> None:
        """Put a label on a version, and off whichever version of the name had it."""
        self._services.records.labels.set(version.key, label)

    def delete_label(self, name: str, label: str) -> None:
        """Take a label off, if it is on a version."""
        self._services.records.labels.delete(WORKSPACE_SCOPE, AssetType.MODEL, name, label)

    def copy_version(self, origin: Asset, name: str, description: str, tags: Mapping[str, str]) -> Asset:
        """Register the bytes and the lineage of a version once more, as the next version of a name. Raises `NotFound`."""
        version = next_version(known.version for known in self.get(name).versions)
        copy = dataclasses.replace(
            origin,
            key=AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, name, version),
            description=description,
            tags=tags,
            is_archived=False,
            created_by=self._services.user,
            created_at=None,
        )
        return self._services.records.assets.add(copy)

    def _model(
        self, name: str, name_record: Asset | None, versions: Assets, labels: Mapping[str, str]
    ) -> RegisteredModel:
        first = name_record or versions[-1]
        return RegisteredModel(
            name=name,
            description=name_record.description if name_record else "",
            tags=name_record.tags if name_record else {},
            labels=labels,
            versions=tuple(versions),
            created_by=first.created_by,
            created_at=first.created_at,
        )

    def _name_record(self, name: str, description: str, tags: Mapping[str, str]) -> Asset:
        return Asset(
            key=AssetKey(NAME_SCOPE, AssetType.MODEL, name, "1"),
            folder_type=FolderType.CUSTOM_MODEL,
            description=description,
            tags=tags,
            created_by=self._services.user,
            created_at=datetime.now(UTC),
        )
