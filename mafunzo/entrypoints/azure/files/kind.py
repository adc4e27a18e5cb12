"""The kinds of `az ml` files: by their `$schema`, or else by their keys."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from mafunzo.entities.asset import MODEL_TYPES
from mafunzo.entrypoints.azure.wire.asset import DATA_TYPES
from mafunzo.entrypoints.azure.wire.component import UNSUPPORTED_TYPES
from mafunzo.errors import InvalidFile, NotSupported


class FileKind(StrEnum):
    """What a file describes."""

    MODEL = "model"
    DATA = "data"
    ENVIRONMENT = "environment"
    COMPUTE = "compute"
    COMPONENT = "component"
    JOB = "job"
    ENDPOINT = "endpoint"
    DEPLOYMENT = "deployment"
    BATCH_ENDPOINT = "batch endpoint"
    BATCH_DEPLOYMENT = "batch deployment"


_SCHEMAS: Mapping[str, tuple[FileKind, str]] = {
    "model": (FileKind.MODEL, ""),
    "data": (FileKind.DATA, ""),
    "environment": (FileKind.ENVIRONMENT, ""),
    "amlcompute": (FileKind.COMPUTE, "amlcompute"),
    "commandcomponent": (FileKind.COMPONENT, "command"),
    "pipelinecomponent": (FileKind.COMPONENT, "pipeline"),
    "commandjob": (FileKind.JOB, "command"),
    "pipelinejob": (FileKind.JOB, "pipeline"),
    "sweepjob": (FileKind.JOB, "sweep"),
    "managedonlineendpoint": (FileKind.ENDPOINT, ""),
    "managedonlinedeployment": (FileKind.DEPLOYMENT, ""),
    "batchendpoint": (FileKind.BATCH_ENDPOINT, ""),
    "batchdeployment": (FileKind.BATCH_DEPLOYMENT, ""),
    "modelbatchdeployment": (FileKind.BATCH_DEPLOYMENT, ""),
}
"""By the last part of `$schema`, in small letters: the kind, and the `type` that it stands for."""

_REFUSED: Mapping[str, str] = {
    "pipelinecomponentbatch": "A pipeline component isn't deployed here; submit it as a job. Deploy a model.",
    "schedule": "Schedules aren't kept here. Have cron call `mafunzo create -f` with the job's file.",
    "kubernetes": "Kubernetes isn't used here. Use a managed endpoint, or an amlcompute: both run on this machine.",
    "computeinstance": "A compute instance is a machine to work at, which is this one. Make an amlcompute.",
    "virtualmachine": "No other machine is attached here. Make an amlcompute, which runs on this machine.",
    "synapsespark": "Spark isn't run here. Make an amlcompute, and run a command.",
    **UNSUPPORTED_TYPES,
}
"""By the prefix of the last part of `$schema`, or of a `type`."""

_COMPUTE_TYPES = ("amlcompute", "computeinstance", "virtualmachine", "kubernetes", "synapsespark")
PIPELINE = "pipeline"
_BATCH_TYPES = ("model", PIPELINE)
_BATCH_ONLY = {
    *("compute", "resources", "settings", "component", "job_definition", "mini_batch_size", "error_threshold"),
    *("output_action", "output_file_name", "retry_settings", "logging_level", "max_concurrency_per_instance"),
}
"""Keys of a deployment of a batch endpoint that one of an online endpoint doesn't have."""
_JOB_ONLY = {"compute", "experiment_name", "settings", "limits", "queue_settings", "parent_job_name"}


def kind_of(document: Mapping[str, Any], where: str) -> FileKind:
    """Return a file's kind, by its `$schema`, or else by its keys.

    Raises `NotSupported` for what doesn't run here, and `InvalidFile` where it can't be told; `where` names the file.
    """
    schema = _schema_of(document)
    type_name = schema or str(document.get("type") or "").lower()
    kind = _SCHEMAS[schema][0] if schema in _SCHEMAS else None if schema else _kind_by_keys(document)
    reason = refusal(type_name)
    if kind is FileKind.BATCH_DEPLOYMENT and str(document.get("type") or "").lower() == PIPELINE:
        reason = refusal("pipelinecomponentbatch")
    if kind is FileKind.COMPUTE:
        reason = reason or refusal(str(document.get("type") or "").lower())
    if kind is not None and not (kind in (FileKind.JOB, FileKind.COMPUTE, FileKind.BATCH_DEPLOYMENT) and reason):
        return kind
    if reason:
        raise NotSupported(f"{where}: {reason}")
    what = f"$schema is '{document['$schema']}'" if schema else f"its keys are {', '.join(map(str, document))}"
    raise InvalidFile(
        f"{where}: {what}, expected a file of one of these: {', '.join(FileKind)}. Add the $schema line that az ml has."
    )


def with_type(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file with the `type` that its `$schema` stands for, where it has none of its own."""
    _, kind = _SCHEMAS.get(_schema_of(document), (None, ""))
    return {**({"type": kind} if kind else {}), **document}


def _schema_of(document: Mapping[str, Any]) -> str:
    return str(document.get("$schema") or "").rsplit("/", 1)[-1].lower().removesuffix(".json").removesuffix(".schema")


def refusal(type_name: str) -> str:
    """Return why what a `$schema` or a `type` names doesn't run here; empty for anything else."""
    return next((reason for begin, reason in _REFUSED.items() if type_name.startswith(begin)), "")


def _kind_by_keys(document: Mapping[str, Any]) -> FileKind | None:
    """Return the first kind that a file's keys fit."""
    type_name, keys = str(document.get("type") or "").lower(), set(document)
    fits = (
        (FileKind.BATCH_DEPLOYMENT, "endpoint_name" in keys and (_BATCH_ONLY & keys or type_name in _BATCH_TYPES)),
        (FileKind.BATCH_ENDPOINT, "defaults" in keys),
        (FileKind.DEPLOYMENT, "endpoint_name" in keys),
        (FileKind.ENDPOINT, {"auth_mode", "traffic"} & keys),
        (FileKind.COMPUTE, type_name in _COMPUTE_TYPES or "size" in keys),
        (FileKind.JOB, "trial" in keys),
        (FileKind.COMPONENT if _is_component(document) else FileKind.JOB, {"command", "jobs"} & keys),
        (FileKind.ENVIRONMENT, {"image", "conda_file", "build"} & keys),
        (FileKind.DATA, type_name in DATA_TYPES),
        (FileKind.MODEL, type_name in MODEL_TYPES),
    )
    return next((kind for kind, is_fit in fits if is_fit), None)


def _is_component(document: Mapping[str, Any]) -> bool:
    """A component has a version, or declares inputs; a job has a compute, or gives inputs their values."""
    if (_JOB_ONLY | {"version", "is_deterministic"}) & set(document):
        return not _JOB_ONLY & set(document)
    inputs = document.get("inputs")
    return isinstance(inputs, Mapping) and all(
        isinstance(one, Mapping) and not {"path", "value"} & set(one) for one in inputs.values()
    )
