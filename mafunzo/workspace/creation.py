"""Making what a file of `az ml` describes: read and checked as a whole, and only then stored, and made as over Azure's wire."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from mafunzo.entities.asset import AssetType
from mafunzo.errors import Conflict, InvalidFile, InvalidParameter, RefusedError, UsageError
from mafunzo.store.ignore import kept_files
from mafunzo.wire.azureml.asset import data_from_body, model_from_body
from mafunzo.wire.azureml.component import component_from_dict
from mafunzo.wire.azureml.compute import compute_from_body
from mafunzo.wire.azureml.endpoint import deployment_from_body, endpoint_from_body
from mafunzo.wire.azureml.envelope import CONTAINER, DATASTORE
from mafunzo.wire.azureml.environment import environment_from_body
from mafunzo.wire.azureml.file import ANONYMOUS, ANONYMOUS_ENVIRONMENT, Body, body_of
from mafunzo.wire.azureml.file_keys import FileKind, KeyFault, environment_faults, faults_of, kind_of, with_type
from mafunzo.wire.azureml.job import job_from_body
from mafunzo.workspace.version import registered

if TYPE_CHECKING:
    from mafunzo.workspace.workspace import Workspace

ASSETS: Mapping[FileKind, AssetType] = {
    FileKind.MODEL: AssetType.MODEL,
    FileKind.DATA: AssetType.DATA,
    FileKind.COMPONENT: AssetType.COMPONENT,
    FileKind.ENVIRONMENT: AssetType.ENVIRONMENT,
}
"""The kinds that have versions."""


@dataclass(frozen=True)
class Created:
    """What a file made. version: empty for what has none. endpoint: the one of a deployment."""

    kind: FileKind
    name: str
    version: str = ""
    endpoint: str = ""


def create(workspace: Workspace, file: Path, changes: Mapping[str, str]) -> Created:
    """Make, or change, what a file describes. changes: values of keys (`jobs.train.compute`) that win over the file's.

    Raises `NotSupported` for a kind that doesn't run here, `InvalidFile` with all faults of the file before anything is stored,
    and what the verb itself raises. A job is in the queue then, and a deployment on its way.
    """
    document = _with_changes(_read(file), changes)
    kind = kind_of(document, str(file))
    document = with_type(document)
    _check(workspace, file, kind, document)
    body = body_of(kind, document, _Local(file.parent, _Stored(workspace)))
    name, version = _name(kind, document), _version(workspace, kind, document)
    _VERBS[kind].make(workspace, body, name, version or str(document.get("endpoint_name") or ""))
    return Created(kind, name, version, str(document.get("endpoint_name") or ""))


def _check(workspace: Workspace, file: Path, kind: FileKind, document: Mapping[str, Any]) -> None:
    checked = _Checked(workspace)
    found = faults_of(kind, document)
    if all(fault.is_harmless for fault in found):

        def parse() -> str:
            body = body_of(kind, document, _Local(file.parent, checked))
            _VERBS[kind].parse(body, _name(kind, document))
            return ""

        checked.attempt("", parse)
    if faults := [*(fault.text for fault in found), *checked.faults]:
        raise InvalidFile(f"{file} can't be used.", list(dict.fromkeys(faults)))


def _name(kind: FileKind, document: Mapping[str, Any]) -> str:
    name = document.get("name")
    return str(name) if name is not None else f"{document['type']}-{secrets.token_hex(4)}"


def _version(workspace: Workspace, kind: FileKind, document: Mapping[str, Any]) -> str:
    """Return the version that is named, else the next number; empty for what has none."""
    if kind not in ASSETS:
        return ""
    if document.get("version") is not None:
        return str(document["version"])
    known = registered(workspace, ASSETS[kind], str(document["name"]))
    return str(max((int(asset.version) for asset in known if asset.version.isdigit()), default=0) + 1)


# What a kind is read with, and made by


@dataclass(frozen=True)
class _Verb:
    """parse: raises what is wrong with a body. make: does it; the last text is a version, or a deployment's endpoint."""

    parse: Callable[[Body, str], Any]
    make: Callable[[Workspace, Body, str, str], Any]


def _component_of(body: Body, name: str) -> Any:
    return component_from_dict(body["properties"]["componentSpec"], name)


def _make_job(workspace: Workspace, body: Body, name: str, _: str) -> None:
    if any(job.name == name for job in workspace.jobs.list()):
        raise Conflict(f"Job {name} exists already, and a job never changes. Give it another name, or leave it out.")
    workspace.jobs.create(name, job_from_body(name, body))


_VERBS: Mapping[FileKind, _Verb] = {
    FileKind.MODEL: _Verb(
        lambda body, name: model_from_body(body),
        lambda workspace, body, name, version: workspace.models.register_from(model_from_body(body), name, version),
    ),
    FileKind.DATA: _Verb(
        lambda body, name: data_from_body(name, body),
        lambda workspace, body, name, version: workspace.data.register_from(data_from_body(name, body), name, version),
    ),
    FileKind.ENVIRONMENT: _Verb(
        lambda body, name: environment_from_body(name, "", body),
        lambda workspace, body, name, version: workspace.environments.register_from(body, name, version),
    ),
    FileKind.COMPONENT: _Verb(
        _component_of,
        lambda workspace, body, name, version: workspace.components.register_from(body, name, version),
    ),
    FileKind.COMPUTE: _Verb(
        lambda body, name: compute_from_body(name, body, ""),
        lambda workspace, body, name, _: workspace.computes.create(compute_from_body(name, body, workspace.user)),
    ),
    FileKind.JOB: _Verb(lambda body, name: job_from_body(name, body), _make_job),
    FileKind.ENDPOINT: _Verb(
        lambda body, name: endpoint_from_body(name, body),
        lambda workspace, body, name, _: workspace.endpoints.put(name, endpoint_from_body(name, body)),
    ),
    FileKind.DEPLOYMENT: _Verb(
        lambda body, name: deployment_from_body(name, body),
        lambda workspace, body, name, endpoint: workspace.endpoints.put_deployment(
            endpoint, name, deployment_from_body(name, body)
        ),
    ),
}


# What lies beside a file


class _Sink(Protocol):
    """Where what a file names goes to: nowhere while it is checked, then into the store."""

    def attempt(self, where: str, work: Callable[[], str]) -> str: ...

    def upload(self, path: Path) -> str: ...

    def code(self, folder: Path) -> str: ...

    def environment(self, body: Body) -> str: ...

    def component(self, body: Body) -> str: ...

    def outputs(self, component: str) -> Mapping[str, str]: ...


class _Local:
    """What the wire's translation finds beside a file, or written out in it: `mafunzo.wire.azureml.file.Local`.

    prefix: where the file itself is named in another one, for errors.
    """

    def __init__(self, folder: Path, sink: _Sink, prefix: str = "") -> None:
        self._folder = folder
        self._sink = sink
        self._prefix = prefix

    def uri(self, where: str, path: str) -> str:
        return self._attempt(where, lambda: self._sink.upload(self._found(path)))

    def code(self, where: str, path: str) -> str:
        return self._attempt(where, lambda: self._sink.code(self._folder_at(path)))

    def conda(self, where: str, path: str) -> Any:
        return json.loads(self._attempt(where, lambda: json.dumps(_read(self._found(path)), default=str)) or "null")

    def environment(self, where: str, given: str | Mapping[str, Any]) -> str:
        def put() -> str:
            document, local = self._document(where, given)
            _refuse(environment_faults(document))
            return self._sink.environment(body_of(FileKind.ENVIRONMENT, document, local))

        return self._attempt(where, put)

    def component(self, where: str, given: str | Mapping[str, Any]) -> str:
        def put() -> str:
            document, local = self._document(where, given)
            if "$schema" in document and (kind := kind_of(document, str(given))) is not FileKind.COMPONENT:
                raise InvalidFile(f"$schema: it is that of a {kind}, expected a component's.")
            document = with_type(document)
            _refuse(faults_of(FileKind.COMPONENT, document))
            return self._sink.component(body_of(FileKind.COMPONENT, document, local))

        return self._attempt(where, put)

    def outputs(self, where: str, component: str) -> Mapping[str, str]:
        found: dict[str, str] = {}

        def find() -> str:
            found.update(self._sink.outputs(component))
            return ""

        self._attempt(where, find)
        return found

    def _attempt(self, where: str, work: Callable[[], str]) -> str:
        return self._sink.attempt(f"{self._prefix}{where}", work)

    def _document(self, where: str, given: str | Mapping[str, Any]) -> tuple[Mapping[str, Any], _Local]:
        """Return what stands in place or in a file, and what finds the files that it names in turn."""
        if not isinstance(given, str):
            return given, _Local(self._folder, self._sink, f"{self._prefix}{where}.")
        file = self._found(given)
        return _read(file), _Local(file.parent, self._sink, f"{self._prefix}{where} ({file.name}): ")

    def _found(self, path: str) -> Path:
        found = (self._folder / Path(path.removeprefix("file://").removeprefix("file:")).expanduser()).resolve()
        if not found.exists():
            raise InvalidFile(
                f"there is no {found}. A path is relative to the file's own folder; what is registered is azureml:NAME:VERSION."
            )
        if found.is_dir() and not kept_files(found):
            raise InvalidFile(f"{found} holds no files that are taken.")
        return found

    def _folder_at(self, path: str) -> Path:
        found = self._found(path)
        if not found.is_dir():
            raise InvalidFile(f"{found} isn't a folder. Name the folder that the command works in.")
        return found


class _Checked:
    """Takes nothing, and keeps what is wrong."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._outputs: dict[str, Mapping[str, str]] = {}
        self.faults: list[str] = []

    def attempt(self, where: str, work: Callable[[], str]) -> str:
        try:
            return work()
        except (UsageError, RefusedError) as error:
            prefix = f"{where}: " if where else ""
            self.faults += [f"{prefix}{fault}" for fault in error.faults or [error.message]]
            return self._name()

    def upload(self, path: Path) -> str:
        return f"azureml://datastores/{DATASTORE}/paths/{path.name}"

    def code(self, folder: Path) -> str:
        return self._name()

    def environment(self, body: Body) -> str:
        environment_from_body(ANONYMOUS_ENVIRONMENT, "", body)
        return self._name()

    def component(self, body: Body) -> str:
        name, component = self._name(), _component_of(body, ANONYMOUS)
        self._outputs[name] = {key: output.type for key, output in component.outputs.items()}
        return name

    def outputs(self, component: str) -> Mapping[str, str]:
        return self._outputs.get(component) or _outputs(self._workspace, component)

    def _name(self) -> str:
        return f"azureml:checked:{len(self._outputs) + 1}"


class _Stored:
    """Puts everything into the store."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def attempt(self, where: str, work: Callable[[], str]) -> str:
        return work()

    def upload(self, path: Path) -> str:
        artifact = self._artifact(path)
        place = f"LocalUpload/{artifact.removeprefix('sha256:')}"
        self._workspace.blobs.publish(CONTAINER, f"{place}/{path.name}" if path.is_dir() else place, artifact)
        return f"azureml://datastores/{DATASTORE}/paths/{place}/{path.name}"

    def code(self, folder: Path) -> str:
        uri = self.upload(folder)
        name = uri.split("/")[-2]
        self._workspace.codes.register_from({"properties": {"codeUri": uri, "isAnonymous": True}}, name, "1")
        return f"azureml:{name}:1"

    def environment(self, body: Body) -> str:
        return self._anonymous(ANONYMOUS_ENVIRONMENT, body, self._workspace.environments.register_from)

    def component(self, body: Body) -> str:
        return self._anonymous(ANONYMOUS, body, self._workspace.components.register_from)

    def outputs(self, component: str) -> Mapping[str, str]:
        return _outputs(self._workspace, component)

    def _anonymous(self, name: str, body: Body, register: Callable[[Body, str, str], Any]) -> str:
        """Register what has no name of its own: its version says its content."""
        version = hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()
        register({"properties": {**body["properties"], "isAnonymous": True}}, name, version)
        return f"azureml:{name}:{version}"

    def _artifact(self, path: Path) -> str:
        artifacts = self._workspace.artifacts
        if path.is_file():
            return artifacts.put(path)
        return artifacts.assemble({name: (artifacts.put(path / name), Path(name).name) for name in kept_files(path)})


def _outputs(workspace: Workspace, component: str) -> Mapping[str, str]:
    found = workspace.components.pin(component).component.outputs
    return {name: output.type for name, output in found.items()}


def _refuse(faults: list[KeyFault]) -> None:
    if faults:
        raise InvalidFile("its keys can't be used.", [fault.text for fault in faults])


# The file itself


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{file} can't be read: {getattr(error, 'strerror', None) or 'it is not text'}.") from error
    except yaml.YAMLError as error:
        raise InvalidFile(f"{file} isn't YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise InvalidFile(f"{file} holds no mapping of keys, expected a file that az ml takes.")
    return {str(key): value for key, value in document.items()}


def _with_changes(document: Mapping[str, Any], changes: Mapping[str, str]) -> dict[str, Any]:
    found = dict(document)
    for path, text in changes.items():
        try:
            found = _changed(found, path.split("."), yaml.safe_load(text))
        except (TypeError, yaml.YAMLError) as error:
            raise InvalidParameter(f"--set {path}={text} can't be done: {error}", param=path) from error
    return found


def _changed(document: Any, path: list[str], value: Any) -> dict[str, Any]:
    """Return a mapping with the value of one key, below others, changed."""
    if not isinstance(document, dict):
        raise TypeError(f"there are no keys below it to reach {'.'.join(path)}.")
    first, *rest = path
    return {**document, first: _changed(document.get(first) or {}, rest, value) if rest else value}
