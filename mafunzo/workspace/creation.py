"""Making what a file of `az ml` describes: read and checked as a whole, and only then stored, and made as over Azure's wire."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mafunzo.entities.asset import AssetType, next_version
from mafunzo.errors import Conflict, InvalidFile, InvalidParameter
from mafunzo.wire.azureml.asset import data_from_body, model_from_body
from mafunzo.wire.azureml.compute import compute_from_body
from mafunzo.wire.azureml.endpoint import deployment_from_body, endpoint_from_body
from mafunzo.wire.azureml.environment import environment_from_body
from mafunzo.wire.azureml.file import body_of
from mafunzo.wire.azureml.file_job import Body
from mafunzo.wire.azureml.file_keys import FileKind, faults_of, kind_of, with_type
from mafunzo.wire.azureml.job import job_from_body
from mafunzo.workspace.local_file import CheckedFiles, LocalFiles, StoredFiles, component_of, read_document
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
    document = _with_changes(read_document(file), changes)
    kind = kind_of(document, str(file))
    document = with_type(document)
    _check(workspace, file, kind, document)
    body = body_of(kind, document, LocalFiles(file.parent, StoredFiles(workspace)))
    endpoint = str(document.get("endpoint_name") or "")
    asked = Created(kind, _name(kind, document), _version(workspace, kind, document), endpoint)
    _VERBS[kind].make(workspace, body, asked)
    return asked


def _check(workspace: Workspace, file: Path, kind: FileKind, document: Mapping[str, Any]) -> None:
    checked = CheckedFiles(workspace)
    found = faults_of(kind, document)
    if all(fault.is_harmless for fault in found):

        def parse() -> None:
            body = body_of(kind, document, LocalFiles(file.parent, checked, within=(file.resolve(),)))
            _VERBS[kind].parse(body, _name(kind, document))

        checked.attempt("", parse, None)
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
    return next_version(asset.version for asset in registered(workspace, ASSETS[kind], str(document["name"])))


# What a kind is read with, and made by


@dataclass(frozen=True)
class _Verb:
    """parse: raises what is wrong with the body for a name. make: does what the body asks for."""

    parse: Callable[[Body, str], Any]
    make: Callable[[Workspace, Body, Created], Any]


def _make_job(workspace: Workspace, body: Body, asked: Created) -> None:
    if workspace.jobs.has(asked.name):
        raise Conflict(
            f"Job {asked.name} exists already, and a job never changes. Give it another name, or leave it out."
        )
    workspace.jobs.create(asked.name, job_from_body(asked.name, body))


_VERBS: Mapping[FileKind, _Verb] = {
    FileKind.MODEL: _Verb(
        lambda body, name: model_from_body(body),
        lambda workspace, body, asked: workspace.models.register_from(model_from_body(body), asked.name, asked.version),
    ),
    FileKind.DATA: _Verb(
        lambda body, name: data_from_body(name, body),
        lambda workspace, body, asked: workspace.data.register_from(
            data_from_body(asked.name, body), asked.name, asked.version
        ),
    ),
    FileKind.ENVIRONMENT: _Verb(
        lambda body, name: environment_from_body(name, "", body),
        lambda workspace, body, asked: workspace.environments.register_from(body, asked.name, asked.version),
    ),
    FileKind.COMPONENT: _Verb(
        component_of,
        lambda workspace, body, asked: workspace.components.register_from(body, asked.name, asked.version),
    ),
    FileKind.COMPUTE: _Verb(
        lambda body, name: compute_from_body(name, body, ""),
        lambda workspace, body, asked: workspace.computes.create(compute_from_body(asked.name, body, workspace.user)),
    ),
    FileKind.JOB: _Verb(lambda body, name: job_from_body(name, body), _make_job),
    FileKind.ENDPOINT: _Verb(
        lambda body, name: endpoint_from_body(name, body),
        lambda workspace, body, asked: workspace.endpoints.put(asked.name, endpoint_from_body(asked.name, body)),
    ),
    FileKind.DEPLOYMENT: _Verb(
        lambda body, name: deployment_from_body(name, body),
        lambda workspace, body, asked: workspace.endpoints.put_deployment(
            asked.endpoint, asked.name, deployment_from_body(asked.name, body)
        ),
    ),
}


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
