"""The local files and inline definitions of an `az ml` file: checked first, and then uploaded and registered."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pathspec import GitIgnoreSpec

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.submission import Promised
from mafunzo.entities.asset import AssetType, FolderType
from mafunzo.entities.component import Component
from mafunzo.entrypoints.azure.files.body import body_of
from mafunzo.entrypoints.azure.files.job import ANONYMOUS, Body
from mafunzo.entrypoints.azure.files.keys import faults_of
from mafunzo.entrypoints.azure.files.kind import FileKind, kind_of, with_type
from mafunzo.entrypoints.azure.registration import register
from mafunzo.entrypoints.azure.wire.asset import model_from_body, require_name
from mafunzo.entrypoints.azure.wire.component import asset_name, component_from_spec, source_of
from mafunzo.entrypoints.azure.wire.envelope import CONTAINER, DATASTORE
from mafunzo.entrypoints.azure.wire.environment import environment_from_body
from mafunzo.errors import Faults, InvalidFile, RefusedError, UsageError

logger = logging.getLogger(__name__)

T = TypeVar("T")
ANONYMOUS_ENVIRONMENT = "CliV2AnonymousEnvironment"
"""The name of anonymous environments, as the Azure SDK has it."""
UNKNOWN = "azureml:.unknown"
"""The reference, while a file is checked, to what isn't stored yet, which nothing else can have; and a URI of such."""
UNKNOWN_NAME = asset_name(UNKNOWN)
UNKNOWN_URI = f"azureml://datastores/{DATASTORE}/paths/unknown"
INCLUDED = "code_with_additional_includes"
"""The name of a folder of code that was put together, as the Azure SDK has it."""
IGNORE_FILES = (".amlignore", ".gitignore")
"""In a folder of code, data or a model: what they name isn't uploaded. The first that is there counts, as for the Azure SDK."""


@dataclass(frozen=True)
class LocalFiles:
    """Resolves the paths and inline definitions of one file: implements `mafunzo.entrypoints.azure.files.job.Local`.

    folder: what paths are relative to. prefix: where the file itself is named in another one, for errors; within: those others.
    """

    folder: Path
    sink: CheckedFiles | StoredFiles
    prefix: str = ""
    within: tuple[Path, ...] = ()

    def uri(self, where: str, path: str, kind: str) -> str:
        return self._attempt(where, lambda: self.sink.upload(_of_kind(self._resolve(path), kind)), UNKNOWN_URI)

    def code(self, where: str, path: str | None, includes: Sequence[str] = ()) -> str:
        return self._attempt(where, lambda: self.sink.code(self._code(path, includes)), UNKNOWN)

    def conda(self, where: str, path: str) -> Mapping[str, Any]:
        return self._attempt(where, lambda: read_document(self._resolve(path)), {})

    def environment(self, where: str, spec: str | Mapping[str, Any]) -> str:
        kind = FileKind.ENVIRONMENT
        return self._attempt(where, lambda: self.sink.environment(self._body(kind, where, spec)), UNKNOWN)

    def component(self, where: str, spec: str | Mapping[str, Any]) -> str:
        body = self._attempt(where, lambda: self._body(FileKind.COMPONENT, where, spec), None)
        if body is None:
            return UNKNOWN
        self._attempt(where, lambda: self.sink.require_source(body), None)
        return self._attempt(where, lambda: self.sink.component(body), UNKNOWN)

    def model(self, where: str, spec: Mapping[str, Any]) -> str:
        name, version = str(spec["name"]), None if spec.get("version") is None else str(spec["version"])
        return self._attempt(
            where, lambda: self.sink.model(name, version, self._body(FileKind.MODEL, where, spec)), UNKNOWN
        )

    def outputs(self, where: str, component: str) -> Mapping[str, str]:
        return self._attempt(where, lambda: self.sink.outputs(component), {})

    def inputs(self, where: str, component: str) -> Collection[str] | None:
        return self._attempt(where, lambda: self.sink.inputs(component), None)

    def note(self, where: str, text: str) -> None:
        self.sink.note(f"{self.prefix}{where}: {text}")

    def _code(self, path: str | None, includes: Sequence[str]) -> Code:
        """Return the files of a folder of code, with what is included beside them, as the Azure SDK puts them together.

        `x.zip`, where there is a folder `x` and no such file, is that folder as an archive.
        """
        folder = None if path is None else self._resolve(path)
        if folder is not None and not folder.is_dir():
            raise InvalidFile(f"{folder} isn't a folder. Name the folder that the command works in.")
        files = {} if folder is None else {name: folder / name for name in kept_files(folder)}
        archives = {}
        for include in includes:
            place = (self.folder / Path(include).expanduser()).resolve()
            if place.suffix == ".zip" and not place.exists() and place.with_suffix("").is_dir():
                archives[place.name] = place.with_suffix("")
            elif (source := self._resolve(include)).is_dir():
                files |= {f"{source.name}/{name}": source / name for name in kept_files(source)}
            else:
                files[source.name] = source
        return Code(INCLUDED if includes or folder is None else folder.name, files, archives)

    def _attempt(self, where: str, work: Callable[[], T], otherwise: T) -> T:
        return self.sink.attempt(f"{self.prefix}{where}", work, otherwise)

    def _body(self, kind: FileKind, where: str, spec: str | Mapping[str, Any]) -> Body:
        """Return the body of an inline definition, or of a file's; raises `InvalidFile` with all faults of its keys."""
        document, local = self._document(where, spec)
        if kind is FileKind.COMPONENT:
            if "$schema" in document and (schema := kind_of(document, str(spec))) is not kind:
                raise InvalidFile(f"$schema: it is that of a {schema}, expected a component's.")
            document = {"name": ANONYMOUS, **with_type(document)}
        if faults := faults_of(kind, document, is_inline=kind is FileKind.ENVIRONMENT):
            raise InvalidFile("its keys can't be used.", [fault.text for fault in faults])
        return body_of(kind, document, local)

    def _document(self, where: str, spec: str | Mapping[str, Any]) -> tuple[Mapping[str, Any], LocalFiles]:
        """Return an inline definition, or a file's, and the resolver of the paths in it."""
        if not isinstance(spec, str):
            return spec, LocalFiles(self.folder, self.sink, f"{self.prefix}{where}.", self.within)
        file = self._resolve(spec)
        if file in self.within:
            raise InvalidFile(f"{file} names itself. Name another file.")
        within = (*self.within, file)
        return read_document(file), LocalFiles(file.parent, self.sink, f"{self.prefix}{where} ({file.name}): ", within)

    def _resolve(self, path: str) -> Path:
        entry = (self.folder / Path(path.removeprefix("file://").removeprefix("file:")).expanduser()).resolve()
        if not entry.exists():
            raise InvalidFile(
                f"there is no {entry}. A path is relative to the file's own folder; what is registered is azureml:NAME:VERSION."
            )
        if entry.is_dir() and not kept_files(entry):
            raise InvalidFile(f"{entry} holds no files that are taken.")
        return entry


@dataclass(frozen=True)
class Code:
    """A folder of code: its name, its files by their path in it, and the folders that become archives in it."""

    name: str
    files: Mapping[str, Path]
    archives: Mapping[str, Path] = field(default_factory=dict)


class CheckedFiles:
    """A dry run: stores nothing, and collects the faults and what the file would register."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._components: dict[str, Component] = {}
        self._files: dict[str, Path] = {}
        self.faults = Faults()

    def promised(self) -> Promised:
        """Return what the file would register."""
        components = {asset_name(name): component for name, component in self._components.items()}
        return Promised(UNKNOWN_NAME, {UNKNOWN_URI: None, **self._files}, components)

    def attempt(self, where: str, work: Callable[[], T], otherwise: T, step: str = "") -> T:
        """Return what `work` does, or `otherwise` where it raises, whose faults are kept.

        step: what stands before faults of a step that isn't in the file.
        """
        try:
            return work()
        except (UsageError, RefusedError) as error:
            prefix = f"{where}: " if where else ""
            self.faults.add(*(f"{prefix}{fault.removeprefix(step)}" for fault in error.faults or [error.message]))
            return otherwise

    def upload(self, path: Path) -> str:
        uri = f"{UNKNOWN_URI}/{len(self._files)}"
        self._files[uri] = path
        return uri

    def code(self, code: Code) -> str:
        return UNKNOWN

    def inputs(self, component: str) -> Collection[str] | None:
        return None if component == UNKNOWN else _component(self._workspace, component, self._components).inputs

    def note(self, text: str) -> None:
        """Do nothing: it is told once, when the file is created."""

    def environment(self, body: Body) -> str:
        environment_from_body(ANONYMOUS_ENVIRONMENT, "", body)
        return UNKNOWN

    def component(self, body: Body) -> str:
        name = f"{UNKNOWN}:{len(self._components) + 1}"
        self._components[name] = component_of(body, ANONYMOUS)
        return name

    def require_source(self, component: Body) -> None:
        """Raise the faults of a component's references to code and environment, except those that the file would register."""
        source = source_of(component["properties"]["componentSpec"])
        self._workspace.components.require_source(self.promised().without(source))

    def model(self, name: str, version: str | None, body: Body) -> str:
        require_name(AssetType.MODEL, name, version or "1")
        model_from_body(body)
        return UNKNOWN

    def outputs(self, component: str) -> Mapping[str, str]:
        return {} if component == UNKNOWN else _outputs(self._workspace, component, self._components)


@dataclass(frozen=True)
class StoredFiles:
    """Uploads and registers everything."""

    workspace: Workspace

    def attempt(self, where: str, work: Callable[[], T], otherwise: T) -> T:
        return work()

    def upload(self, path: Path) -> str:
        artifact = self._artifact(path)
        place = f"LocalUpload/{artifact.removeprefix('sha256:')}"
        self.workspace.blobs.publish(CONTAINER, f"{place}/{path.name}" if path.is_dir() else place, artifact)
        return f"azureml://datastores/{DATASTORE}/paths/{place}/{path.name}"

    def code(self, code: Code) -> str:
        artifact = self._code_artifact(code)
        name = artifact.removeprefix("sha256:")
        self.workspace.blobs.publish(CONTAINER, f"LocalUpload/{name}/{code.name}", artifact)
        uri = f"azureml://datastores/{DATASTORE}/paths/LocalUpload/{name}/{code.name}"
        register(self.workspace, AssetType.CODE, name, "1", {"properties": {"codeUri": uri, "isAnonymous": True}})
        return f"azureml:{name}:1"

    def inputs(self, component: str) -> Collection[str] | None:
        return _component(self.workspace, component, {}).inputs

    def note(self, text: str) -> None:
        logger.warning("%s", text)

    def environment(self, body: Body) -> str:
        return self._anonymous(AssetType.ENVIRONMENT, ANONYMOUS_ENVIRONMENT, body)

    def component(self, body: Body) -> str:
        return self._anonymous(AssetType.COMPONENT, ANONYMOUS, body)

    def require_source(self, component: Body) -> None:
        """Do nothing: registering the component checks it."""

    def model(self, name: str, version: str | None, body: Body) -> str:
        """Register a model under its version, else under the one that has these files already, or the next number."""
        version = version or self.workspace.models.version_with(name, model_from_body(body).source)
        register(self.workspace, AssetType.MODEL, name, version, body)
        return f"azureml:{name}:{version}"

    def outputs(self, component: str) -> Mapping[str, str]:
        return _outputs(self.workspace, component, {})

    def _anonymous(self, type: AssetType, name: str, body: Body) -> str:
        """Register an anonymous asset, whose version is its content hash."""
        version = hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()
        register(self.workspace, type, name, version, {"properties": {**body["properties"], "isAnonymous": True}})
        return f"azureml:{name}:{version}"

    def _code_artifact(self, code: Code) -> str:
        artifacts = self.workspace.artifacts
        files = {name: (artifacts.put(path), path.name) for name, path in code.files.items()}
        with tempfile.TemporaryDirectory() as folder:
            for name, source in code.archives.items():
                archive = Path(folder) / name
                _write_archive(archive, source)
                files[name] = (artifacts.put(archive), name)
        return artifacts.assemble(files)

    def _artifact(self, path: Path) -> str:
        artifacts = self.workspace.artifacts
        if path.is_file():
            return artifacts.put(path)
        return artifacts.assemble({name: (artifacts.put(path / name), Path(name).name) for name in kept_files(path)})


def kept_files(folder: Path) -> list[str]:
    """Return the paths, relative to the folder, of the files that are uploaded, sorted."""
    ignore_file = next((folder / name for name in IGNORE_FILES if (folder / name).is_file()), None)
    lines = ignore_file.read_text(encoding="utf-8").splitlines() if ignore_file else []
    ignored = GitIgnoreSpec.from_lines(["__pycache__/", *lines])
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(path for path in files if not ignored.match_file(path))


def _of_kind(path: Path, kind: str) -> Path:
    """Return `path` where it is of its asset type; raises `InvalidFile`."""
    if kind == FolderType.URI_FILE and path.is_dir():
        raise InvalidFile(f"{path} is a folder, and the type is {kind}. Name a file, or set type: uri_folder.")
    if kind in (FolderType.URI_FOLDER, FolderType.MLTABLE) and not path.is_dir():
        raise InvalidFile(f"{path} is a file, and the type is {kind}. Name a folder, or set type: uri_file.")
    if kind == FolderType.MLTABLE and not (path / "MLTable").is_file():
        raise InvalidFile(
            f"{path} has no file MLTable, which says how its rows are read. Add one, or set another type."
        )
    return path


def _write_archive(archive: Path, folder: Path) -> None:
    """Write a zip file of a folder and its name, the same one for the same files."""
    with zipfile.ZipFile(archive, "w") as zip_file:
        for name in kept_files(folder):
            zip_file.writestr(zipfile.ZipInfo(f"{folder.name}/{name}"), (folder / name).read_bytes())


def _component(workspace: Workspace, name: str, promised: Mapping[str, Component]) -> Component:
    return promised.get(name) or workspace.components.get(name).component


def _outputs(workspace: Workspace, name: str, promised: Mapping[str, Component]) -> Mapping[str, str]:
    component = _component(workspace, name, promised)
    return {output: declared.type for output, declared in component.outputs.items()}


def component_of(body: Body, name: str) -> Component:
    """Return the component of a body; raises `InvalidFile` and `NotSupported`."""
    return component_from_spec(body["properties"]["componentSpec"], name)


def read_document(file: Path) -> dict[str, Any]:
    """Return the mapping that a file holds; raises `InvalidFile`."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{file} can't be read: {getattr(error, 'strerror', None) or 'it is not text'}.") from error
    except yaml.YAMLError as error:
        raise InvalidFile(f"{file} isn't YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise InvalidFile(f"{file} holds no mapping of keys, expected a file that az ml takes.")
    return {str(key): value for key, value in document.items()}
