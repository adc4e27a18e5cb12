"""Creation of what an `az ml` file describes: validated as a whole, and only then stored, and created as by Azure's PUT."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mafunzo.control.workspace.version import registered
from mafunzo.entities.asset import next_version
from mafunzo.entrypoints.azure.files.body import body_of
from mafunzo.entrypoints.azure.files.check import ASSETS, check
from mafunzo.entrypoints.azure.files.job import Body
from mafunzo.entrypoints.azure.files.keys import FileKind, kind_of, with_type
from mafunzo.entrypoints.azure.files.local_file import LocalFiles, StoredFiles, read_document
from mafunzo.entrypoints.azure.wire.asset import data_from_body, model_from_body
from mafunzo.entrypoints.azure.wire.component import request_from_body as component_from_body
from mafunzo.entrypoints.azure.wire.compute import compute_from_body
from mafunzo.entrypoints.azure.wire.endpoint import deployment_from_body, endpoint_from_body
from mafunzo.entrypoints.azure.wire.environment import request_from_body
from mafunzo.entrypoints.azure.wire.job import job_from_body
from mafunzo.errors import Conflict, InvalidParameter

if TYPE_CHECKING:
    from mafunzo.control.workspace.workspace import Workspace


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
    document = _with_changes(read_document(file), changes)
    kind = kind_of(document, str(file))
    document = with_type(document)
    name = _name(kind, document)
    check(workspace, file, kind, document, name)
    body = body_of(kind, document, LocalFiles(file.parent, StoredFiles(workspace)))
    endpoint = str(document.get("endpoint_name") or "")
    target = Created(kind, name, _version(workspace, kind, document), endpoint)
    _VERBS[kind](workspace, body, target)
    return target


def _name(kind: FileKind, document: Mapping[str, Any]) -> str:
    """Return the file's name, or for a job a new one; for anything else, a stand-in: the missing key is a fault."""
    name = document.get("name")
    if name is None:
        return f"{document.get('type') or kind}-{secrets.token_hex(4)}" if kind is FileKind.JOB else "unknown"
    return str(name)


def _version(workspace: Workspace, kind: FileKind, document: Mapping[str, Any]) -> str:
    """Return the file's version, else the next number; empty for a kind without versions."""
    if kind not in ASSETS:
        return ""
    if document.get("version") is not None:
        return str(document["version"])
    return next_version(asset.version for asset in registered(workspace.services, ASSETS[kind], str(document["name"])))


# What a kind is made by


def _make_job(workspace: Workspace, body: Body, target: Created) -> None:
    if workspace.jobs.has(target.name):
        raise Conflict(
            f"Job {target.name} exists already, and a job never changes. Give it another name, or leave it out."
        )
    workspace.jobs.create(job_from_body(target.name, body))


_VERBS: Mapping[FileKind, Callable[[Workspace, Body, Created], Any]] = {
    FileKind.MODEL: lambda workspace, body, target: workspace.models.register_from(
        model_from_body(body), target.name, target.version
    ),
    FileKind.DATA: lambda workspace, body, target: workspace.data.register_from(
        data_from_body(target.name, body), target.name, target.version
    ),
    FileKind.ENVIRONMENT: lambda workspace, body, target: workspace.environments.register_from(
        request_from_body(target.name, target.version, body), target.name, target.version
    ),
    FileKind.COMPONENT: lambda workspace, body, target: workspace.components.register(
        component_from_body(target.name, target.version, body)
    ),
    FileKind.COMPUTE: lambda workspace, body, target: workspace.computes.create(
        target.name, compute_from_body(target.name, body)
    ),
    FileKind.JOB: _make_job,
    FileKind.ENDPOINT: lambda workspace, body, target: workspace.endpoints.put(
        target.name, endpoint_from_body(target.name, body)
    ),
    FileKind.DEPLOYMENT: lambda workspace, body, target: workspace.deployments.put(
        target.endpoint, target.name, deployment_from_body(target.name, body)
    ),
}


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
