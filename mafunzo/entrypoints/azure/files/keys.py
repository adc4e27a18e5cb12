"""The schemas of `az ml` files: the keys that each kind may have, and their values, with stand-ins for faulty ones."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mafunzo.entities.asset import MODEL_TYPES
from mafunzo.entities.component_file import NODE_TYPES
from mafunzo.entities.duration import seconds_of
from mafunzo.entrypoints.azure.files.kind import FileKind, refusal
from mafunzo.entrypoints.azure.wire.asset import DATA_TYPES
from mafunzo.entrypoints.azure.wire.component import SWEEP
from mafunzo.entrypoints.azure.wire.envelope import DATASTORE
from mafunzo.errors import InvalidParameter, did_you_mean

_REFUSED_KEYS: Mapping[str, str] = {
    "services": "services to talk to aren't run beside a job here. Leave it out.",
}
"""Azure's keys that aren't supported, each with its reason."""


class Leaf(StrEnum):
    """The type of a leaf key's value: a text or number, only a number, texts or numbers by name, or anything."""

    SCALAR = "a text or a number"
    SCALARS = "names with a text or a number each"
    WHOLE = "a whole number, 0 or more"
    NUMBER = "a number"
    SECONDS = "whole seconds, or an ISO 8601 duration such as PT120S"
    TEXTS = "a list of texts"
    ANYTHING = "anything"


@dataclass(frozen=True)
class OneOf:
    """One of a few texts, case-insensitive. aliases: other spellings, which errors don't list."""

    texts: tuple[str, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fields:
    """A mapping of these keys. required: those that can't be left out. is_scalar_too: a text may stand there instead.

    is_open: other keys are kept as they are.
    """

    keys: Mapping[str, "Shape"]
    required: tuple[str, ...] = ()
    is_scalar_too: bool = False
    is_open: bool = False


@dataclass(frozen=True)
class Each:
    """A mapping of names of the user's own to this."""

    shape: "Shape"


Shape = Leaf | OneOf | Fields | Each


def _scalars(names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), Leaf.SCALAR)


def _wholes(names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), Leaf.WHOLE)


SETTINGS = ("default_compute", "default_datastore", "continue_on_step_failure", "force_rerun")
"""What of a pipeline's settings means something here; any other is kept with the job, as Azure keeps it."""
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
_RUN: Mapping[str, Shape] = {
    **_scalars("command code"),
    "additional_includes": Leaf.TEXTS,
    "environment": Fields(_ENVIRONMENT_KEYS, is_scalar_too=True),
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
    "inputs": Each(Fields(_scalars("type description path mode value optional default min max"), is_scalar_too=True)),
    "outputs": Each(Fields(_scalars("type description path mode name version"), is_scalar_too=True)),
    "identity": Fields(_scalars("type"), is_scalar_too=True),
    "queue_settings": Fields(_scalars("job_tier priority")),
}
_LIMITS: Mapping[str, Shape] = {"limits": Fields({"timeout": Leaf.SECONDS})}
_NODES = Each(Fields({**_JOB, **_RUN, **_LIMITS, "component": Leaf.ANYTHING}))
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
_SWEEP_NODE = Fields({**_SWEEP, "trial": Leaf.ANYTHING}, ("trial", "search_space", "objective"))
"""A node of the type sweep, whose trial is a component."""
_COMPONENT: Mapping[str, Shape] = {
    **_ASSET,
    **_scalars("type display_name is_deterministic"),
    "inputs": Each(Fields({**_scalars("type description optional default min max mode path"), "enum": Leaf.ANYTHING})),
    "outputs": Each(Fields(_scalars("type description mode path"))),
}
_PROBE = Fields(_wholes("initial_delay period timeout success_threshold failure_threshold"))
_MODEL = Fields(
    {**_ASSET, **_scalars("path stage"), "type": OneOf(MODEL_TYPES), "flavors": Leaf.ANYTHING}, ("name", "path")
)
_BATCH_SETTINGS: Mapping[str, Shape] = {
    **_wholes("mini_batch_size max_concurrency_per_instance"),
    **_scalars("output_file_name logging_level error_threshold"),
    "output_action": OneOf(("append_row", "summary_only")),
    "retry_settings": Leaf.ANYTHING,
    "environment_variables": Leaf.SCALARS,
}
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
    (FileKind.JOB, "pipeline"): Fields(
        {
            **_JOB,
            "jobs": _NODES,
            "settings": Fields(_scalars(" ".join(SETTINGS)), is_open=True),
        },
        ("jobs",),
    ),
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
            **dict.fromkeys(("environment", "code_configuration", "data_collector"), Leaf.ANYTHING),
            "scale_settings": Fields(
                {
                    "type": OneOf(("default", "target_utilization")),
                    **_wholes("min_instances max_instances polling_interval target_utilization_percentage"),
                }
            ),
            "request_settings": Fields(
                _wholes("request_timeout_ms max_concurrent_requests_per_instance max_queue_wait_ms")
            ),
            "liveness_probe": _PROBE,
            "readiness_probe": _PROBE,
        },
        ("name", "endpoint_name", "model"),
    ),
    (FileKind.BATCH_ENDPOINT, ""): Fields(
        {
            **_scalars("$schema name description auth_mode"),
            **dict.fromkeys(("tags", "properties"), Leaf.SCALARS),
            "defaults": Fields(_scalars("deployment_name")),
        },
        ("name",),
    ),
    (FileKind.BATCH_DEPLOYMENT, ""): Fields(
        {
            **_scalars("$schema name description endpoint_name compute"),
            **_BATCH_SETTINGS,
            "type": OneOf(("model",)),
            "model": Fields(_MODEL.keys, _MODEL.required, is_scalar_too=True),
            "settings": Fields({**_BATCH_SETTINGS, "instance_count": Leaf.WHOLE}),
            "resources": _RUN["resources"],
            **dict.fromkeys(("tags", "properties"), Leaf.SCALARS),
            **dict.fromkeys(("environment", "code_configuration"), Leaf.ANYTHING),
        },
        ("name", "endpoint_name", "model"),
    ),
}


_STAND_INS_BY_LEAF: Mapping[Leaf, Any] = {Leaf.WHOLE: 1, Leaf.NUMBER: 0.5, Leaf.SECONDS: 1, Leaf.TEXTS: []}
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


def faults_of(kind: FileKind, document: Mapping[str, Any], is_inline: bool = False) -> list[KeyFault]:
    """Return all that is wrong with the keys of a file, each fault with its key: `jobs.train.comand: unknown key ...`.

    is_inline: it stands within another one, and needs no name.
    """
    variant = str(document.get("type") or "command").lower() if kind in (FileKind.COMPONENT, FileKind.JOB) else ""
    shape = _SHAPES.get((kind, variant))
    if shape is None:
        known = " or ".join(type for of, type in _SHAPES if of is kind)
        return [KeyFault(f"type: '{variant}', expected {known}. {refusal(variant)}".rstrip())]
    return list(_faults(Fields(shape.keys) if is_inline else shape, document, ()))


def _faults(shape: Shape, value: Any, path: tuple[str, ...]) -> Iterator[KeyFault]:
    if value is None or shape is Leaf.ANYTHING:
        return
    match shape:
        case Leaf.SCALARS:
            yield from _faults(Each(Leaf.SCALAR), value, path)
        case Leaf() | OneOf():
            if fault := _value_fault(shape, value):
                stand_in = _stand_in(shape)
                yield _fault(path, fault, _STAND_INS.get(path[-1]) if stand_in is None else stand_in)
        case Fields(is_scalar_too=True) if not isinstance(value, Mapping | list):
            return
        case _ if not isinstance(value, Mapping):
            yield _fault(path, f"{_written(value)}, expected a mapping.", is_harmless=shape == Each(Leaf.SCALAR))
        case Each(each):
            for name, one in value.items():
                below = (*path, str(name))
                if each is _NODES.shape and isinstance(one, Mapping) and (fault := _node_fault(one)):
                    yield _fault(below, fault)
                else:
                    is_sweep = each is _NODES.shape and isinstance(one, Mapping) and _node_type(one) == SWEEP
                    yield from _faults(_SWEEP_NODE if is_sweep else each, one, below)
        case Fields():
            yield from _key_faults(shape, value, path)


def _key_faults(shape: Fields, value: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[KeyFault]:
    keys = shape.keys
    for name, one in value.items():
        below = (*path, str(name))
        if name in keys:
            yield from _faults(keys[name], one, below)
        elif not shape.is_open:
            reason = _REFUSED_KEYS.get(str(name)) or f"unknown key.{_suggestion(str(name), keys)}"
            yield _fault(below, reason, is_harmless=True)
    for name in shape.required:
        if value.get(name) in (None, "", {}):
            yield _fault((*path, name), "missing.", _STAND_INS.get(name))


def _node_fault(node: Mapping[str, Any]) -> str:
    """Return why a node can't run here at all; empty where it can, or where its keys say what is wrong."""
    kind = _node_type(node)
    if kind == SWEEP:
        return ""
    if kind not in NODE_TYPES:
        return f"a node of the type {kind}, expected {', '.join(NODE_TYPES)} or {SWEEP}. {refusal(kind)}".rstrip()
    return "" if {"component", "command"} & set(node) else "it has neither component nor command, expected one of them."


def _node_type(node: Mapping[str, Any]) -> str:
    return str(node.get("type") or "command").lower()


def _suggestion(key: str, known: Iterable[str]) -> str:
    return did_you_mean(key, known) or f" There are: {', '.join(known)}."


def _fault(path: tuple[str, ...], text: str, instead: Any = None, is_harmless: bool = False) -> KeyFault:
    return KeyFault(f"{'.'.join(path)}: {text}", path, is_harmless or instead is not None, instead)


def _value_fault(leaf: Leaf | OneOf, value: Any) -> str:
    """Return what is wrong with a value, as in `'abc', expected a number.`; an empty text for a good one."""
    if isinstance(leaf, OneOf):
        is_good = str(value).lower() in (text.lower() for text in (*leaf.texts, *leaf.aliases))
        return "" if is_good else f"{_written(value)}, expected {' or '.join(leaf.texts)}."
    return "" if _GOOD[leaf](value) else f"{_written(value)}, expected {leaf}."


def _stand_in(leaf: Leaf | OneOf) -> Any:
    """Return a good value to read the rest of a file with; None where there is none."""
    return leaf.texts[0] if isinstance(leaf, OneOf) else _STAND_INS_BY_LEAF.get(leaf)


def _written(value: Any) -> str:
    """Return a value as faults show it."""
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, Mapping) else f"'{value}'"


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, Mapping | list)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | str) and str(value).isdecimal()


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _is_seconds(value: Any) -> bool:
    try:
        return _is_whole(value) or (isinstance(value, str) and seconds_of(value) >= 0)
    except InvalidParameter:
        return False


_GOOD = {
    Leaf.SCALAR: _is_scalar,
    Leaf.WHOLE: _is_whole,
    Leaf.NUMBER: _is_number,
    Leaf.SECONDS: _is_seconds,
    Leaf.TEXTS: _is_texts,
}
