"""Validation of an `az ml` file before anything is stored: its keys, its local files, and the assets that it references."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mafunzo.control.workspace import endpoints as endpoint
from mafunzo.control.workspace.submission import shipped_pipeline
from mafunzo.entities.asset import AssetType
from mafunzo.entities.component import Component
from mafunzo.entities.job_request import JobRequest
from mafunzo.entities.reference import PathInput
from mafunzo.entrypoints.azure.files.body import body_of
from mafunzo.entrypoints.azure.files.job import Body
from mafunzo.entrypoints.azure.files.keys import FileKind, faults_of, mended
from mafunzo.entrypoints.azure.files.local_file import (
    UNKNOWN,
    UNKNOWN_NAME,
    UNKNOWN_URI,
    CheckedFiles,
    LocalFiles,
    component_of,
)
from mafunzo.entrypoints.azure.wire.asset import data_from_body, model_from_body, require_name
from mafunzo.entrypoints.azure.wire.compute import compute_from_body
from mafunzo.entrypoints.azure.wire.endpoint import deployment_from_body, endpoint_from_body, model_reference
from mafunzo.entrypoints.azure.wire.environment import environment_from_body
from mafunzo.entrypoints.azure.wire.job import COMMAND, TRIAL, job_from_body
from mafunzo.errors import InvalidFile

if TYPE_CHECKING:
    from mafunzo.control.workspace.workspace import Workspace

T = TypeVar("T")
ASSETS: Mapping[FileKind, AssetType] = {
    FileKind.MODEL: AssetType.MODEL,
    FileKind.DATA: AssetType.DATA,
    FileKind.COMPONENT: AssetType.COMPONENT,
    FileKind.ENVIRONMENT: AssetType.ENVIRONMENT,
}
"""The kinds that are versioned assets."""


def check(workspace: Workspace, file: Path, kind: FileKind, document: Mapping[str, Any], name: str) -> None:
    """Raise `InvalidFile` with all that is wrong with a file, as far as one fault lets another be seen."""
    files = CheckedFiles(workspace)
    key_faults = faults_of(kind, document)
    if all(fault.is_harmless for fault in key_faults):
        broken = frozenset(fault.path[0] for fault in key_faults)
        document = mended(document, key_faults)
        local = LocalFiles(file.parent, files, within=(file.resolve(),))
        body = files.attempt("", lambda: body_of(kind, document, local), None)
        if body is not None:
            _CHECKS[kind](_File(workspace, files, kind, document, body, name, broken))
    if faults := [*(fault.text for fault in key_faults), *files.faults]:
        raise InvalidFile(f"{file} can't be used.", list(dict.fromkeys(faults)))


@dataclass(frozen=True)
class _File:
    """A file that could be translated. broken: keys with a reported fault, which have a stand-in value."""

    workspace: Workspace
    files: CheckedFiles
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


def _asset(file: _File, read: Callable[[], Any]) -> None:
    version = str(file.document.get("version") or "1")
    file.take(lambda: require_name(ASSETS[file.kind], file.name, version))
    file.take(read)


def _model(file: _File) -> None:
    _asset(file, lambda: model_from_body(file.body))


def _data(file: _File) -> None:
    _asset(file, lambda: data_from_body(file.name, file.body))


def _environment(file: _File) -> None:
    _asset(file, lambda: environment_from_body(file.name, "", file.body))


def _component(file: _File) -> None:
    _asset(file, lambda: component_of(file.body, file.name))
    file.take(lambda: file.files.require_source(file.body))


def _compute(file: _File) -> None:
    computes = file.workspace.computes
    request = file.take(lambda: compute_from_body(file.name, file.body))
    if request is not None:
        file.files.faults += computes.faults_of(file.name, request)
        file.attempt("size", lambda: computes.get(request.size))


def _endpoint(file: _File) -> None:
    file.take(lambda: endpoint.require_name("endpoint", file.name))
    file.take(lambda: endpoint_from_body(file.name, file.body))


def _deployment(file: _File) -> None:
    file.take(lambda: endpoint.require_name("deployment", file.name))
    name = str(file.document["endpoint_name"])
    file.attempt("endpoint_name", lambda: file.workspace.endpoints.get(name))
    properties = file.body["properties"]
    if file.attempt("model", lambda: model_reference(file.name, properties)) is None:
        properties = {**properties, "model": UNKNOWN}
    request = file.take(lambda: deployment_from_body(file.name, {**file.body, "properties": properties}))
    if request is None:
        return
    if properties["model"] != UNKNOWN:
        file.attempt("model", lambda: file.workspace.deployments.require_chat_model(request.model))
    if request.instance_type:
        file.attempt("instance_type", lambda: file.workspace.computes.get(request.instance_type))


def _job(file: _File) -> None:
    request = file.take(lambda: job_from_body(file.name, file.body))
    if request is None:
        return
    jobs, promised = file.workspace.jobs, file.files.promised()
    if _has_unreadable_parts(request, promised.components.values()):
        file.files.faults += file.workspace.computes.faults(request.computes)
        return
    before = len(file.files.faults)
    file.take(lambda: jobs.require_good(request, promised))
    if "jobs" not in file.document:  # the only step has a name that isn't in the file
        file.files.faults[before:] = map(_without_step, file.files.faults[before:])


def _has_unreadable_parts(request: JobRequest, components: Iterable[Component]) -> bool:
    """Return whether a component, or a file of a pipeline of the registry, can't be read, so that no plan can be made."""
    nodes = [*request.pipeline.nodes.values(), *(node for one in components for node in one.nodes.values())]
    if UNKNOWN_NAME in (request.component, *(node.component for node in nodes)):
        return True
    inputs = [*request.inputs.values(), *(value for node in nodes for value in node.inputs.values())]
    is_broken = any(isinstance(value, PathInput) and value.text == UNKNOWN_URI for value in inputs)
    return is_broken and shipped_pipeline(request) is not None


def _without_step(fault: str) -> str:
    return fault.removeprefix(f"step '{COMMAND}': ").removeprefix(f"step '{TRIAL}': ")


_CHECKS: Mapping[FileKind, Callable[[_File], None]] = {
    FileKind.MODEL: _model,
    FileKind.DATA: _data,
    FileKind.ENVIRONMENT: _environment,
    FileKind.COMPONENT: _component,
    FileKind.COMPUTE: _compute,
    FileKind.JOB: _job,
    FileKind.ENDPOINT: _endpoint,
    FileKind.DEPLOYMENT: _deployment,
}
