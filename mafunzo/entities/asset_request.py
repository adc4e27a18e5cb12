"""What is asked for when a version of an asset is registered, changed or shared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mafunzo.entities.asset import FolderType
from mafunzo.entities.component import Component, Source
from mafunzo.entities.environment import Environment
from mafunzo.entities.reference import AssetReference, JobOutputReference, LocalPath, StoredPath, WebAddress


@dataclass(frozen=True, kw_only=True)
class VersionRequest:
    """What every request for a version has: what may change of a version that exists, and what a way in keeps of its own.

    is_anonymous: the version has no name of its own, because it stands in a job or component; lists leave it out.
    echoes: as in `Asset`.
    """

    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    is_archived: bool = False
    is_anonymous: bool = False
    echoes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelRequest(VersionRequest):
    """A model whose files are a job's output, were uploaded, or lie on this machine.

    folder_type: None for what the files show. properties: facts under names of the user's own.
    """

    source: JobOutputReference | StoredPath | LocalPath
    folder_type: FolderType | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataRequest(VersionRequest):
    """Data: uploaded files, a job's output, or a file of the web."""

    source: StoredPath | JobOutputReference | WebAddress
    folder_type: FolderType


@dataclass(frozen=True, kw_only=True)
class CodeRequest(VersionRequest):
    """A folder that was uploaded: the blobs of `container` below `path`, or all of it.

    hash: what the client says of the folder's content, to find it again, in the form that `hash_version` names.
    """

    container: str
    path: str
    hash: str = ""
    hash_version: str = ""


@dataclass(frozen=True, kw_only=True)
class EnvironmentRequest(VersionRequest):
    """An environment, which has the name and version that it is registered under."""

    environment: Environment


@dataclass(frozen=True, kw_only=True)
class ComponentRequest(VersionRequest):
    """A component, which has the name and version that it is registered under.

    source: where a command works, and in which packages. user_properties: what the user notes of it.
    """

    component: Component
    source: Source = field(default_factory=Source)
    user_properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShareRequest:
    """A version of the workspace that is to be copied to the registry; version: empty for the one that it has."""

    source: AssetReference
    name: str
    version: str = ""
