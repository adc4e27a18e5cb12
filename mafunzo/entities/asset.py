"""What a workspace or a registry keeps by name and version: models, data, components, environments."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class AssetType(StrEnum):
    """The kinds of asset. Code is a folder that commands of the user's own components work in."""

    MODEL = "model"
    DATA = "data"
    COMPONENT = "component"
    ENVIRONMENT = "environment"
    CODE = "code"


class FolderType(StrEnum):
    """What the bytes of an asset, input or output are, by the names that users write."""

    URI_FILE = "uri_file"
    URI_FOLDER = "uri_folder"
    MLTABLE = "mltable"
    MLFLOW_MODEL = "mlflow_model"
    CUSTOM_MODEL = "custom_model"


MODEL_TYPES = (FolderType.MLFLOW_MODEL, FolderType.CUSTOM_MODEL)
WORKSPACE_SCOPE = "workspace"
REGISTRY_SCOPE = "registry"


@dataclass(frozen=True)
class AssetKey:
    """The name of an asset. `scope` is `workspace` or `registry`, or a part of one that is named after a colon."""

    scope: str
    type: AssetType
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class Asset:
    """One version of an asset.

    artifact: the hash under which its bytes are stored, or None for one that is on offer but not fetched.
    folder_type: what the bytes are.
    properties: facts that the maker recorded (for a model: base, job, licence, context length ...).
    is_anonymous: whether it has no name of its own, because it stands in a job or component; lists leave it out.
    echoes: what a way in keeps of a request's original body, under its own name, to answer with it; nothing else reads it.
    """

    key: AssetKey
    folder_type: FolderType
    artifact: str | None = None
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    is_archived: bool = False
    is_anonymous: bool = False
    created_by: str = ""
    created_at: datetime | None = None
    echoes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def version(self) -> str:
        return self.key.version


@dataclass(frozen=True)
class RegisteredModel:
    """A model's name: what is said of it, and what stands under it. versions: newest first; labels: label to version."""

    name: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[Asset, ...] = ()
    created_by: str = ""
    created_at: datetime | None = None


def home_path(asset: Asset) -> str:
    """Return the path of the home's datastore, or of the registry's, at which the files of a model or of data are shown.

    An empty text for those that were uploaded to the home's datastore, whose path is another one, and for data that lies
    elsewhere.
    """
    if asset.key.type is AssetType.MODEL:
        is_there = asset.key.scope == WORKSPACE_SCOPE and "datastore" in asset.properties.get("source", {})
        return "" if is_there else f"models/{asset.name}/{asset.version}/model"
    return str(asset.properties.get("shown_at", ""))


def data_path(key: AssetKey, last: str) -> str:
    """Return where in the home's datastore data is shown that a step wrote; last: the file's name, or the folder's."""
    return f"assets/data/{key.name}/{key.version}/{last}"


def next_version(versions: Iterable[str]) -> str:
    """Return the number after the highest of these versions; what isn't a number doesn't count."""
    return str(max((int(version) for version in versions if version.isdigit()), default=0) + 1)
