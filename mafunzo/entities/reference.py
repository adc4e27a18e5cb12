"""What a name or address stands for: a version of an asset, an output of a job, a path of a datastore, a file of the web.

People write `name`, `name:version` or `name@label`. A way in may have further ways of writing (ids and addresses of a cloud,
say); it adds its syntax at the start of a process, and yields the references of this module.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mafunzo.entities.asset import AssetType

_WEB = re.compile(r"https?://[^/?#\s]+/\S*[^/\s]")
_NAME = re.compile(r"(?P<name>[^:@/]+)(:(?P<version>[^:@/]+)|@(?P<label>[^:@/]+))?")


@dataclass(frozen=True)
class AssetReference:
    """A version of an asset. `registry` None means the workspace first, then the catalogue; no version means the newest.

    type: where the text says it; a bare name doesn't.
    """

    name: str
    version: str | None = None
    label: str | None = None
    registry: str | None = None
    type: AssetType | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" if self.version else f"{self.name}@{self.label or 'latest'}"


@dataclass(frozen=True)
class JobOutputReference:
    """An output of a job, or of a step of it (`<job>.<step>`); path: a file or folder in it, empty for all."""

    job: str
    output: str
    path: str = ""


@dataclass(frozen=True)
class StoredPath:
    """A file or folder that was uploaded, by its path in a datastore."""

    datastore: str
    path: str


@dataclass(frozen=True)
class WebAddress:
    """A file elsewhere: `https://host/folder/iris.csv`."""

    url: str


def source_from_facts(facts: Mapping[str, str]) -> "JobOutputReference | StoredPath | WebAddress":
    """Return where an asset came from, of which its properties have the fields."""
    kinds = (JobOutputReference, StoredPath, WebAddress)
    kind = next(kind for kind in kinds if {field.name for field in dataclasses.fields(kind)} == set(facts))
    return kind(**facts)


@dataclass(frozen=True)
class LocalPath:
    """A file or folder of this machine that isn't stored yet."""

    path: str


Reference = AssetReference | JobOutputReference | StoredPath | WebAddress | LocalPath
Syntax = Callable[[str], Reference | None]
"""Returns what a text names, or None for a text of another syntax."""


@dataclass(frozen=True)
class PathInput:
    """A file or folder that an input of a job names.

    reference: None for an address that nothing here understands, which whoever needs the file refuses. type: what the file or
    folder is (`uri_file` ...), as far as the request says it. text: as it was written, for errors.
    """

    reference: Reference | None
    type: str
    text: str


_syntaxes: list[Syntax] = []


def add_syntax(syntax: Syntax) -> None:
    """Let `parse_reference` understand a way in's own addresses, from now on in this process. Idempotent."""
    if syntax not in _syntaxes:
        _syntaxes.append(syntax)


def parse_reference(text: str) -> Reference | None:
    """Return what `text` names, or None when it has none of the known forms."""
    for syntax in _syntaxes:
        if (reference := syntax(text)) is not None:
            return reference
    return parse_name(text)


def path_input(text: str, type: str = "") -> PathInput:
    """Return the file or folder that `text` names."""
    return PathInput(parse_reference(text), type, text)


def parse_name(text: str) -> AssetReference | WebAddress | None:
    """Return what `text` names in the forms that need no way in: `name`, `name:version`, `name@label`, or a file of the web."""
    if _WEB.fullmatch(text):
        return WebAddress(text)
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    label = match["label"] if match["label"] != "latest" else None
    return AssetReference(match["name"], match["version"], label)
