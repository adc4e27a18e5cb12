"""The schemas of `az ml` files: each file's kind, and the keys that it may have."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mafunzo.entities.asset import MODEL_TYPES
from mafunzo.entities.component_file import NODE_TYPES
from mafunzo.entrypoints.azure.files.value import Leaf, OneOf, stand_in, value_fault, written
from mafunzo.entrypoints.azure.wire.asset import DATA_TYPES
from mafunzo.entrypoints.azure.wire.envelope import DATASTORE
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
}
"""By the last part of `$schema`, in small letters: the kind, and the `type` that it stands for."""

_REFUSED: Mapping[str, str] = {
    "batch": "Batch endpoints aren't run here. Ask an online endpoint, or run a command over the rows.",
    "schedule": "Schedules aren't kept here. Have cron call `mafunzo create -f` with the job's file.",
    "kubernetes": "Kubernetes isn't used here. Use a managed endpoint, or an amlcompute: both run on this machine.",
    "computeinstance": "A compute instance is a machine to work at, which is this one. Make an amlcompute.",
    "virtualmachine": "No other machine is attached here. Make an amlcompute, which runs on this machine.",
    "synapsespark": "Spark isn't run here. Make an amlcompute, and run a command.",
    "spark": "Spark isn't run here. Run a command.",
    "parallel": "Parallel steps aren't run here. Run a command over the rows.",
    "automl": "AutoML isn't run here. Run a command or a pipeline.",
    "import": "Imports from databases aren't run here. Run a command that fetches the rows.",
}
"""By the prefix of the last part of `$schema`, or of a `type`."""

_REFUSED_KEYS: Mapping[str, str] = {
    "services": "services to talk to aren't run beside a job here. Leave it out.",
    "additional_includes": "it isn't read here. Put the files into the folder of code.",
}
"""Azure's keys that aren't supported, each with its reason."""

_COMPUTE_TYPES = ("amlcompute", "computeinstance", "virtualmachine", "kubernetes", "synapsespark")
_JOB_ONLY = {"compute", "experiment_name", "settings", "limits", "queue_settings", "parent_job_name"}
_COMPONENT_ONLY = {"version", "is_deterministic"}


def kind_of(document: Mapping[str, Any], where: str) -> FileKind:
    """Return a file's kind, by its `$schema`, or else by its keys.

    Raises `NotSupported` for what doesn't run here, and `InvalidFile` where it can't be told; `where` names the file.
    """
    schema = _schema_of(document)
    type_name = schema or str(document.get("type") or "").lower()
    kind = _SCHEMAS[schema][0] if schema in _SCHEMAS else None if schema else _kind_by_keys(document)
    reason = _refusal(type_name)
    if kind is FileKind.COMPUTE:
        reason = reason or _refusal(str(document.get("type") or "").lower())
    if kind is not None and not (kind in (FileKind.JOB, FileKind.COMPUTE) and reason):
        return kind
    if reason:
        raise NotSupported(f"{where}: {reason}")
    known = ", ".join(FileKind)
    what = f"$schema is '{document['$schema']}'" if schema else f"its keys are {', '.join(map(str, document))}"
    raise InvalidFile(
        f"{where}: {what}, expected a file of one of these: {known}. Add the $schema line that az ml has."
    )


def with_type(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file with the `type` that its `$schema` stands for, where it has none of its own."""
    _, kind = _SCHEMAS.get(_schema_of(document), (None, ""))
    return {**({"type": kind} if kind else {}), **document}


def _schema_of(document: Mapping[str, Any]) -> str:
    return str(document.get("$schema") or "").rsplit("/", 1)[-1].lower().removesuffix(".json").removesuffix(".schema")


def _refusal(type_name: str) -> str:
    return next((reason for begin, reason in _REFUSED.items() if type_name.startswith(begin)), "")


def _kind_by_keys(document: Mapping[str, Any]) -> FileKind | None:
    kind = str(document.get("type") or "").lower()
    keys = set(document)
    if "endpoint_name" in keys:
        return FileKind.DEPLOYMENT
    if {"auth_mode", "traffic"} & keys:
        return FileKind.ENDPOINT
    if kind in _COMPUTE_TYPES or "size" in keys:
        return FileKind.COMPUTE
    if "trial" in keys:
        return FileKind.JOB
    if {"command", "jobs"} & keys:
        return FileKind.COMPONENT if _is_component(document) else FileKind.JOB
    if {"image", "conda_file", "build"} & keys:
        return FileKind.ENVIRONMENT
    if kind in DATA_TYPES:
        return FileKind.DATA
    return FileKind.MODEL if kind in MODEL_TYPES else None


def _is_component(document: Mapping[str, Any]) -> bool:
    """A component has a version, or declares inputs; a job has a compute, or gives inputs their values."""
    if (_JOB_ONLY | _COMPONENT_ONLY) & set(document):
        return not _JOB_ONLY & set(document)
    inputs = document.get("inputs")
    return isinstance(inputs, Mapping) and all(
        isinstance(one, Mapping) and not {"path", "value"} & set(one) for one in inputs.values()
    )


# Which keys there may be


@dataclass(frozen=True)
class Fields:
    """A mapping of these keys. required: those that can't be left out. is_scalar_too: a text may stand there instead."""

    keys: Mapping[str, "Shape"]
    required: tuple[str, ...] = ()
    is_scalar_too: bool = False


@dataclass(frozen=True)
class Each:
    """A mapping of names of the user's own to this."""

    shape: "Shape"


Shape = Leaf | OneOf | Fields | Each


def _scalars(names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), Leaf.SCALAR)


def _wholes(names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), Leaf.WHOLE)


_ASSET: Mapping[str, Shape] = {
    **_scalars("$schema name version description"),
    "tags": Leaf.SCALARS,
    "properties": Leaf.SCALARS,
}
_ENVIRONMENT_KEYS: Mapping[str, Shape] = {
    **_ASSET,
    **_scalars("image os_type"),
    "conda_file": Leaf.ANYTHING,
    "build": Fields(_scalars("path dockerfile_path")),
    "inference_config": Leaf.ANYTHING,
}
_ENVIRONMENT = Fields(_ENVIRONMENT_KEYS, is_scalar_too=True)
_DECLARED = Each(Fields({**_scalars("type description optional default min max mode path"), "enum": Leaf.ANYTHING}))
_DECLARED_OUTPUT = Each(Fields(_scalars("type description mode path")))
_GIVEN = Each(Fields(_scalars("type description path mode value optional default min max"), is_scalar_too=True))
_WRITTEN = Each(Fields(_scalars("type description path mode name version"), is_scalar_too=True))
_RUN: Mapping[str, Shape] = {
    **_scalars("command code"),
    "environment": _ENVIRONMENT,
    "environment_variables": Leaf.SCALARS,
    "resources": Fields(
        {
            **_scalars("instance_type shm_size docker_args"),
            **_wholes("instance_count max_instance_count"),
            "properties": Leaf.ANYTHING,
        }
    ),
    "distribution": Fields(_scalars("type") | _wholes("process_count_per_instance"), required=("type",)),
}
_JOB: Mapping[str, Shape] = {
    **_scalars("$schema type name display_name description experiment_name compute"),
    "tags": Leaf.SCALARS,
    "properties": Leaf.SCALARS,
    "inputs": _GIVEN,
    "outputs": _WRITTEN,
    "identity": Fields(_scalars("type"), is_scalar_too=True),
    "queue_settings": Fields(_scalars("job_tier priority")),
}
_LIMITS: Mapping[str, Shape] = {"limits": Fields({"timeout": Leaf.SECONDS})}
_NODE_KEYS: Mapping[str, Shape] = {**_JOB, **_RUN, **_LIMITS, "component": Leaf.ANYTHING}
_SETTINGS = Fields(_scalars("default_compute default_datastore continue_on_step_failure force_rerun"))
_NODES = Each(Fields(_NODE_KEYS))
_SWEEP: Mapping[str, Shape] = {
    **_JOB,
    "trial": Fields(_RUN, required=("command",)),
    "search_space": Each(
        Fields({**_scalars("type upper min_value max_value mu sigma q"), "values": Leaf.ANYTHING}, required=("type",))
    ),
    "sampling_algorithm": Fields(_scalars("type seed rule logbase"), is_scalar_too=True),
    "objective": Fields(_scalars("goal primary_metric"), required=("goal", "primary_metric")),
    "early_termination": Fields(
        {
            **_scalars("type"),
            **_wholes("delay_evaluation evaluation_interval truncation_percentage"),
            **dict.fromkeys(("slack_factor", "slack_amount"), Leaf.NUMBER),
        },
        required=("type",),
    ),
    "limits": Fields(
        {
            **_wholes("max_total_trials max_concurrent_trials"),
            **dict.fromkeys(("timeout", "trial_timeout"), Leaf.SECONDS),
        }
    ),
    "resources": _RUN["resources"],
}
_COMPONENT: Mapping[str, Shape] = {
    **_ASSET,
    **_scalars("type display_name is_deterministic"),
    "inputs": _DECLARED,
    "outputs": _DECLARED_OUTPUT,
}
_PROBE = Fields(_wholes("initial_delay period timeout success_threshold failure_threshold"))
_MODEL = Fields(
    {**_ASSET, **_scalars("path stage"), "type": OneOf(MODEL_TYPES), "flavors": Leaf.ANYTHING}, ("name", "path")
)
_SHAPES: Mapping[tuple[FileKind, str], Fields] = {
    (FileKind.MODEL, ""): _MODEL,
    (FileKind.DATA, ""): Fields({**_ASSET, **_scalars("path"), "type": OneOf(DATA_TYPES)}, ("name", "path")),
    (FileKind.ENVIRONMENT, ""): Fields(_ENVIRONMENT_KEYS, ("name",)),
    (FileKind.COMPUTE, ""): Fields(
        {
            **_scalars("$schema name description location size ssh_public_access_enabled enable_node_public_ip"),
            **_wholes("min_instances max_instances idle_time_before_scale_down"),
            "type": OneOf(("amlcompute",)),
            "tier": OneOf(("dedicated", "low_priority"), aliases=("lowpriority",)),
            "tags": Leaf.SCALARS,
            "ssh_settings": Leaf.ANYTHING,
            "network_settings": Leaf.ANYTHING,
            "identity": Leaf.ANYTHING,
        },
        ("name", "size"),
    ),
    (FileKind.COMPONENT, "command"): Fields({**_COMPONENT, **_RUN}, ("name", "command")),
    (FileKind.COMPONENT, "pipeline"): Fields({**_COMPONENT, "jobs": _NODES}, ("name", "jobs")),
    (FileKind.JOB, "command"): Fields({**_JOB, **_RUN, **_LIMITS}, ("command",)),
    (FileKind.JOB, "pipeline"): Fields({**_JOB, "jobs": _NODES, "settings": _SETTINGS}, ("jobs",)),
    (FileKind.JOB, "sweep"): Fields(_SWEEP, ("trial", "search_space", "objective")),
    (FileKind.ENDPOINT, ""): Fields(
        {
            **_scalars("$schema name description auth_mode public_network_access"),
            **dict.fromkeys(("tags", "properties", "traffic", "mirror_traffic"), Leaf.SCALARS),
            "identity": Leaf.ANYTHING,
        },
        ("name",),
    ),
    (FileKind.DEPLOYMENT, ""): Fields(
        {
            **_scalars("$schema name description type endpoint_name instance_type app_insights_enabled"),
            **_scalars("egress_public_network_access"),
            "model": Fields(_MODEL.keys, _MODEL.required, is_scalar_too=True),
            "instance_count": Leaf.WHOLE,
            **dict.fromkeys(("tags", "properties", "environment_variables"), Leaf.SCALARS),
            **dict.fromkeys(("environment", "code_configuration", "scale_settings", "data_collector"), Leaf.ANYTHING),
            "request_settings": Fields(
                _wholes("request_timeout_ms max_concurrent_requests_per_instance max_queue_wait_ms")
            ),
            "liveness_probe": _PROBE,
            "readiness_probe": _PROBE,
        },
        ("name", "endpoint_name", "model"),
    ),
}


_STAND_INS: Mapping[str, str] = {
    "name": "unknown",
    "path": f"azureml://datastores/{DATASTORE}/paths/unknown",
    "command": "true",
    "size": "local",
    "endpoint_name": "unknown",
    "model": "azureml:unknown:1",
}
"""What stands in for keys that are missing, so that the rest of a file can be read."""


@dataclass(frozen=True)
class KeyFault:
    """What is wrong with a key. path: the keys that lead to it.

    is_harmless: the rest of the file can be read with `stand_in` in its place, or without it where that is None.
    """

    text: str
    path: tuple[str, ...] = ()
    is_harmless: bool = False
    stand_in: Any = None


def mended(document: Mapping[str, Any], faults: Iterable[KeyFault]) -> dict[str, Any]:
    """Return a file with stand-ins for what is wrong with it; all faults are harmless."""
    copy = dict(document)
    for fault in faults:
        copy = _mended(copy, fault.path, fault.stand_in)
    return copy


def _mended(document: Mapping[Any, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    fields = {str(key): one for key, one in document.items()}
    if rest:
        return {**fields, first: _mended(fields[first], tuple(rest), value)}
    return {key: one for key, one in {**fields, first: value}.items() if key != first or value is not None}


def faults_of(kind: FileKind, document: Mapping[str, Any]) -> list[KeyFault]:
    """Return all that is wrong with the keys of a file, each fault with its key: `jobs.train.comand: unknown key ...`."""
    variant = str(document.get("type") or "command").lower() if kind in (FileKind.COMPONENT, FileKind.JOB) else ""
    shape = _SHAPES.get((kind, variant))
    if shape is None:
        known = [type for of, type in _SHAPES if of is kind]
        return [KeyFault(f"type: '{variant}', expected {' or '.join(known)}. {_refusal(variant)}".rstrip())]
    return list(_faults(shape, document, ()))


def environment_faults(document: Mapping[str, Any]) -> list[KeyFault]:
    """Return all faults of the keys of an environment that is defined inline, or needs no name."""
    return list(_faults(Fields(_ENVIRONMENT_KEYS), document, ()))


def _faults(shape: Shape, value: Any, path: tuple[str, ...]) -> Iterator[KeyFault]:
    if value is None or shape is Leaf.ANYTHING:
        return
    match shape:
        case Leaf.SCALARS:
            yield from _faults(Each(Leaf.SCALAR), value, path)
        case Leaf() | OneOf():
            if fault := value_fault(shape, value):
                instead = stand_in(shape) or _STAND_INS.get(path[-1])
                yield KeyFault(f"{_where(path)}: {fault}", path, is_harmless=instead is not None, stand_in=instead)
        case Fields(is_scalar_too=True) if not isinstance(value, Mapping | list):
            return
        case _ if not isinstance(value, Mapping):
            is_harmless = shape == Each(Leaf.SCALAR)
            yield KeyFault(f"{_where(path)}: {written(value)}, expected a mapping.", path, is_harmless)
        case Each(each):
            for name, one in value.items():
                below = (*path, str(name))
                if each is _NODES.shape and isinstance(one, Mapping) and (fault := _node_fault(one)):
                    yield KeyFault(f"{_where(below)}: {fault}", below)
                else:
                    yield from _faults(each, one, below)
        case Fields(keys, required):
            yield from _key_faults(keys, required, value, path)


def _key_faults(
    keys: Mapping[str, Shape], required: Iterable[str], value: Mapping[Any, Any], path: tuple[str, ...]
) -> Iterator[KeyFault]:
    for name, one in value.items():
        below = (*path, str(name))
        if name in keys:
            yield from _faults(keys[name], one, below)
        else:
            reason = _REFUSED_KEYS.get(str(name)) or f"unknown key.{_suggestion(str(name), keys)}"
            yield KeyFault(f"{_where(below)}: {reason}", below, is_harmless=True)
    for name in required:
        if value.get(name) in (None, "", {}):
            below, instead = (*path, name), _STAND_INS.get(name)
            yield KeyFault(f"{_where(below)}: missing.", below, is_harmless=instead is not None, stand_in=instead)


def _node_fault(node: Mapping[str, Any]) -> str:
    """Return why a node can't run here at all; empty where it can, or where its keys say what is wrong."""
    kind = str(node.get("type") or "command").lower()
    if kind not in NODE_TYPES:
        return f"a node of the type {kind}, expected {' or '.join(NODE_TYPES)}. {_refusal(kind)}".rstrip()
    return "" if {"component", "command"} & set(node) else "it has neither component nor command, expected one of them."


def _suggestion(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else f" There are: {', '.join(known)}."


def _where(path: Iterable[str]) -> str:
    return ".".join(path)
