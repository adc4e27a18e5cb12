"""Creation of what an `az ml` file describes: validated as a whole, and only then stored, and created as by Azure's PUT.

A file is validated by its keys, its local files, and the assets that it references, before anything is stored.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mafunzo.control.workspace import Workspace, endpoints
from mafunzo.control.workspace.shipped_pipeline import shipped_pipeline
from mafunzo.entities.asset import AssetType
from mafunzo.entities.component import Component
from mafunzo.entities.job_request import JobRequest
from mafunzo.entities.reference import PathInput
from mafunzo.entrypoints.azure.files import local_file
from mafunzo.entrypoints.azure.files.body import body_of
from mafunzo.entrypoints.azure.files.job import Body
from mafunzo.entrypoints.azure.files.keys import faults_of, mended
from mafunzo.entrypoints.azure.files.kind import FileKind, kind_of, with_type
from mafunzo.entrypoints.azure.registration import register
from mafunzo.entrypoints.azure.wire import asset, batch, compute, endpoint, environment, job
from mafunzo.errors import Conflict, InvalidFile, InvalidParameter

T = TypeVar("T")


@dataclass(frozen=True)
class Created:
    """What a file made. version: empty for what has none. endpoint: the one of a deployment, online or batch."""

    kind: FileKind
    name: str
    version: str = ""
    endpoint: str = ""


def create(workspace: Workspace, file: Path, changes: Mapping[str, str]) -> Created:
    """Make, or change, what a file describes. changes: values of keys (`jobs.train.compute`) that win over the file's.

    Raises `NotSupported` for a kind that doesn't run here, `InvalidFile` with all faults of the file before anything is stored,
    and what the verb itself raises. A job is in the queue then, and a deployment on its way.
    """
    document = _with_changes(local_file.read_document(file), changes)
    kind = kind_of(document, str(file))
    document = with_type(document)
    name = _name(kind, document)
    check(workspace, file, kind, document, name)
    body = body_of(kind, document, local_file.LocalFiles(file.parent, local_file.StoredFiles(workspace)))
    target = Created(kind, name, _version(workspace, kind, document), str(document.get("endpoint_name") or ""))
    _make(workspace, target, body)
    return target


def _name(kind: FileKind, document: Mapping[str, Any]) -> str:
    """Return the file's name, or for a job a new one; for anything else, a stand-in: the missing key is a fault."""
    name = document.get("name")
    if name is None:
        return f"{document.get('type') or kind}-{secrets.token_hex(4)}" if kind is FileKind.JOB else "unknown"
    return str(name)


def _version(workspace: Workspace, kind: FileKind, document: Mapping[str, Any]) -> str:
    """Return the file's version, else the next number; empty for a kind without versions."""
    if str(kind) not in list(AssetType):
        return ""
    if document.get("version") is not None:
        return str(document["version"])
    return workspace.versions[AssetType(kind)].next(str(document["name"]))


def _make(workspace: Workspace, target: Created, body: Body) -> None:
    name = target.name
    match target.kind:
        case FileKind.JOB:
            if workspace.jobs.has(name):
                raise Conflict(
                    f"Job {name} exists already, and a job never changes. Give it another name, or leave it out."
                )
            workspace.jobs.create(job.job_from_body(name, body))
        case FileKind.COMPUTE:
            workspace.computes.create(compute.compute_from_body(name, body))
        case FileKind.ENDPOINT:
            workspace.endpoints.create(name, endpoint.endpoint_from_body(name, body))
        case FileKind.DEPLOYMENT:
            workspace.deployments.create(target.endpoint, name, endpoint.deployment_from_body(name, body))
        case FileKind.BATCH_ENDPOINT:
            workspace.batch_endpoints.create(name, batch.batch_endpoint_from_body(name, body))
        case FileKind.BATCH_DEPLOYMENT:
            workspace.batch_endpoints.deploy(target.endpoint, name, batch.batch_deployment_from_body(name, body))
        case kind:
            register(workspace, AssetType(kind), name, target.version, body)


def _with_changes(document: Mapping[str, Any], changes: Mapping[str, str]) -> dict[str, Any]:
    copy = dict(document)
    for path, text in changes.items():
        try:
            copy = _changed(copy, path.split("."), yaml.safe_load(text))
        except (TypeError, yaml.YAMLError) as error:
            raise InvalidParameter(f"--set {path}={text} can't be done: {error}", param=path) from error
    return copy


def _changed(document: Any, path: list[str], value: Any) -> dict[str, Any]:
    """Return a mapping with the value of one key, below others, changed."""
    if not isinstance(document, dict):
        raise TypeError(f"there are no keys below it to reach {'.'.join(path)}.")
    first, *rest = path
    return {**document, first: _changed(document.get(first) or {}, rest, value) if rest else value}


# What is checked before


def check(workspace: Workspace, file: Path, kind: FileKind, document: Mapping[str, Any], name: str) -> None:
    """Raise `InvalidFile` with all that is wrong with a file, as far as one fault lets another be seen."""
    files = local_file.CheckedFiles(workspace)
    key_faults = faults_of(kind, document)
    files.faults.add(*(fault.text for fault in key_faults))
    if all(fault.is_harmless for fault in key_faults):
        document = mended(document, key_faults)
        local = local_file.LocalFiles(file.parent, files, within=(file.resolve(),))
        body = files.attempt("", lambda: body_of(kind, document, local), None)
        if body is not None:
            broken = frozenset(fault.path[0] for fault in key_faults)
            _CHECKS.get(kind, _asset)(_File(workspace, files, kind, document, body, name, broken))
    files.faults.require_none(f"{file} can't be used.", InvalidFile)


@dataclass(frozen=True)
class _File:
    """A file that could be translated. broken: keys with a reported fault, which have a stand-in value."""

    workspace: Workspace
    files: local_file.CheckedFiles
    kind: FileKind
    document: Mapping[str, Any]
    body: Body
    name: str
    broken: frozenset[str]

    def attempt(self, key: str, work: Callable[[], T]) -> T | None:
        """Return what `work` does; where it raises, keep the fault, and do nothing for a key that is broken."""
        return None if key in self.broken else self.files.attempt(key, work, None)

    def take(self, read: Callable[[], T]) -> T | None:
        """Return what `read` parses from the body; where it raises, keep the fault."""
        return self.files.attempt("", read, None)


_READERS: Mapping[FileKind, Callable[[_File], Any]] = {
    FileKind.MODEL: lambda file: asset.model_from_body(file.body),
    FileKind.DATA: lambda file: asset.data_from_body(file.name, file.body),
    FileKind.ENVIRONMENT: lambda file: environment.environment_from_body(file.name, "", file.body),
    FileKind.COMPONENT: lambda file: local_file.component_of(file.body, file.name),
}


def _asset(file: _File) -> None:
    version = str(file.document.get("version") or "1")
    file.take(lambda: asset.require_name(AssetType(file.kind), file.name, version))
    file.take(lambda: _READERS[file.kind](file))
    if file.kind is FileKind.COMPONENT:
        file.take(lambda: file.files.require_source(file.body))


def _compute(file: _File) -> None:
    computes = file.workspace.computes
    request = file.take(lambda: compute.compute_from_body(file.name, file.body))
    if request is not None:
        file.files.faults.add(*computes.faults_of(request))
        file.attempt("size", lambda: computes.get(request.size))


def _endpoint(file: _File) -> None:
    file.take(lambda: endpoints.require_name("endpoint", file.name))
    file.take(lambda: endpoint.endpoint_from_body(file.name, file.body))


def _deployment(file: _File) -> None:
    file.take(lambda: endpoints.require_name("deployment", file.name))
    file.attempt("endpoint_name", lambda: file.workspace.endpoints.get(str(file.document["endpoint_name"])))
    properties = file.body["properties"]
    if file.attempt("model", lambda: endpoint.model_reference(file.name, properties)) is None:
        properties = {**properties, "model": local_file.UNKNOWN}
    request = file.take(lambda: endpoint.deployment_from_body(file.name, {**file.body, "properties": properties}))
    if request is None:
        return
    if properties["model"] != local_file.UNKNOWN:
        file.attempt("model", lambda: file.workspace.deployments.require_chat_model(request.model))
    if request.instance_type:
        file.attempt("instance_type", lambda: file.workspace.computes.get(request.instance_type))


def _batch_endpoint(file: _File) -> None:
    file.take(lambda: endpoints.require_name("batch endpoint", file.name))
    request = file.take(lambda: batch.batch_endpoint_from_body(file.name, file.body))
    if request is not None and (default := request.default_deployment):
        file.attempt("defaults", lambda: file.workspace.batch_endpoints.deployment(file.name, default))


def _batch_deployment(file: _File) -> None:
    batches, properties = file.workspace.batch_endpoints, file.body["properties"]
    file.take(lambda: endpoints.require_name("deployment", file.name))
    file.attempt("endpoint_name", lambda: batches.get(str(file.document["endpoint_name"])))
    if file.attempt("model", lambda: batch.model_of(file.name, properties)) is None:
        properties = {**properties, "model": {"assetId": local_file.UNKNOWN}}
    request = file.take(lambda: batch.batch_deployment_from_body(file.name, {**file.body, "properties": properties}))
    if request is None:
        return
    if properties["model"]["assetId"] != local_file.UNKNOWN:
        file.attempt("model", lambda: batches.require_model(request.model))
    file.files.faults.add(*batches.faults_of(request))


def _job(file: _File) -> None:
    request = file.take(lambda: job.job_from_body(file.name, file.body))
    if request is None:
        return
    jobs, promised = file.workspace.jobs, file.files.promised()
    if _has_unreadable_parts(request, promised.components.values()):
        file.files.faults.add(*file.workspace.computes.faults(request.computes))
        return
    step = "" if "jobs" in file.document else f"step '{job.TRIAL if request.sweep else job.COMMAND}': "
    file.files.attempt("", lambda: jobs.require_good(request, promised), None, step)


def _has_unreadable_parts(request: JobRequest, components: Iterable[Component]) -> bool:
    """Return whether a component, or a file of a pipeline of the registry, can't be read, so that no plan can be made."""
    nodes = [*request.pipeline.nodes.values(), *(node for one in components for node in one.nodes.values())]
    if local_file.UNKNOWN_NAME in (request.component, *(node.component for node in nodes)):
        return True
    inputs = [*request.inputs.values(), *(value for node in nodes for value in node.inputs.values())]
    is_broken = any(isinstance(value, PathInput) and value.text == local_file.UNKNOWN_URI for value in inputs)
    return is_broken and shipped_pipeline(request) is not None


_CHECKS: Mapping[FileKind, Callable[[_File], None]] = {
    FileKind.COMPUTE: _compute,
    FileKind.JOB: _job,
    FileKind.ENDPOINT: _endpoint,
    FileKind.DEPLOYMENT: _deployment,
    FileKind.BATCH_ENDPOINT: _batch_endpoint,
    FileKind.BATCH_DEPLOYMENT: _batch_deployment,
}
"""Of the kinds that aren't assets."""
