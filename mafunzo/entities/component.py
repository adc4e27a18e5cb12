"""A component's interface: what a step takes, what it writes, and the shell command between; or a pipeline of them.

The checks of a value against its declaration live here, because a plan and a component's own command line both make them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mafunzo.entities.job import ArtifactInput, Destination, Resources, Value
from mafunzo.entities.reference import AssetReference, PathInput
from mafunzo.entities.sweep import Sweep
from mafunzo.errors import did_you_mean

PARENT_INPUT = re.compile(r"\$\{\{\s*parent\.inputs\.([\w.-]+)\s*\}\}")
PARENT_OUTPUT = re.compile(r"\$\{\{\s*parent\.outputs\.([\w-]+)\s*\}\}")
STEP_OUTPUT = re.compile(r"\$\{\{\s*parent\.jobs\.([\w.-]+)\.outputs\.([\w-]+)\s*\}\}")
"""What a node's input or output is bound to, as a pipeline writes it. An input of a group has the group's name in its own:
`group.name`."""
COMPUTE = "compute"
INSTANCES = "resources.instance_count"
PROCESSES = "distribution.process_count_per_instance"
TIMEOUT = "limits.timeout"
"""What of a node may be bound to the pipeline's inputs besides its own inputs."""
NodeInput = Value | PathInput | ArtifactInput
LITERAL_TYPES = ("string", "integer", "number", "boolean")
PATH_TYPES = ("uri_file", "uri_folder", "mlflow_model", "custom_model", "mltable")


@dataclass(frozen=True)
class Input:
    """One declared input. `type` is one of `LITERAL_TYPES` or `PATH_TYPES`.

    default: None where there is none. minimum, maximum: inclusive bounds; exclusive_minimum: the value must be greater.
    refused: a value (as text; `*` for any that differs from the default) to the reason why this version refuses it.
    aliases: other tools' names for it, accepted where a user names parameters.
    """

    name: str
    type: str
    description: str = ""
    is_optional: bool = False
    default: Value | None = None
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def is_path(self) -> bool:
        return self.type in PATH_TYPES

    @property
    def is_required(self) -> bool:
        return not self.is_optional and self.default is None


@dataclass(frozen=True)
class Output:
    """One declared output; `type` is one of `PATH_TYPES`."""

    name: str
    type: str
    description: str = ""


@dataclass(frozen=True)
class Node:
    """A component inside of a pipeline. `inputs` holds values and bindings as written: `${{parent.inputs.x}}`,
    `${{parent.jobs.step.outputs.y}}`.

    component: a registered one, or by a text the key of one of the request's own commands, or a component that ships.
    display_name: what people call it. environment: variables beside the component's own. destinations: what else becomes of
    outputs. timeout_s: 0 is none.
    bound: by `COMPUTE`, `INSTANCES`, `PROCESSES` or `TIMEOUT`, the text that binds it to inputs of the pipeline.
    is_distributed: it runs as the processes of all instances, `resources.processes` times those that are bound.
    sweep: its component is run as the trials of one, and its outputs are those of the best.
    """

    name: str
    component: AssetReference | str
    inputs: Mapping[str, NodeInput | None] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    resources: Resources | None = None
    retries: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    destinations: Mapping[str, Destination] = field(default_factory=dict)
    timeout_s: float = 0.0
    bound: Mapping[str, str] = field(default_factory=dict)
    is_distributed: bool = False
    display_name: str = ""
    sweep: Sweep | None = None


@dataclass(frozen=True)
class Component:
    """A step's interface (`kind` command: has a `command`) or a pipeline's (`kind` pipeline: has `nodes`)."""

    name: str
    version: str
    kind: Literal["command", "pipeline"]
    display_name: str = ""
    description: str = ""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    outputs: Mapping[str, Output] = field(default_factory=dict)
    command: str = ""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    environment: Mapping[str, str] = field(default_factory=dict)
    is_deterministic: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where a user's command works, and in which packages; None is nowhere of its own, and Mafunzo's own packages.

    A text stands for what is no name of an asset, which whoever looks it up refuses.
    """

    code: AssetReference | str | None = None
    environment: AssetReference | str | None = None


def parse_value(declared: Input, raw: Any) -> tuple[Value | None, str]:
    """Return `raw` as the declared type and an empty text, or None and the fault: what, what was given, what to do."""
    value, fault = _as_type(declared, raw)
    if fault or value is None:
        return None, fault or f"{declared.name} is empty, expected {_expected(declared)}."
    if declared.enum and str(value) not in declared.enum:
        return None, f"{declared.name} is {_show(raw)}, expected {_expected(declared)}." + did_you_mean(
            str(value), declared.enum
        )
    if isinstance(value, int | float) and not isinstance(value, bool) and not _is_in_range(declared, float(value)):
        return None, f"{declared.name} is {_show(raw)}, expected {_expected(declared)}."
    reason = refusal(declared, value)
    if reason:
        return None, f"{declared.name} is {_show(raw)}: {reason}"
    return value, ""


def refusal(declared: Input, value: Value) -> str:
    """Return why this version refuses `value`, or an empty text."""
    as_text = _text(value)
    if as_text in declared.refused:
        return declared.refused[as_text]
    is_default = declared.default is not None and as_text == _text(declared.default)
    return "" if is_default else declared.refused.get("*", "")


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return the fault of a name that isn't declared, with the nearest one that is."""
    return f"{name} is not a parameter." + did_you_mean(name, known)


def _as_type(declared: Input, raw: Any) -> tuple[Value | None, str]:
    fault = f"{declared.name} is {_show(raw)}, expected {_expected(declared)}."
    if declared.type == "string":
        return (_text(raw), "") if isinstance(raw, str | int | float | bool) else (None, fault)
    if declared.type == "boolean":
        text = str(raw).strip().lower()
        return (text == "true", "") if text in {"true", "false"} else (None, fault)
    if isinstance(raw, bool):
        return None, fault
    try:
        number = float(raw)
    except (TypeError, ValueError, OverflowError):
        return None, fault
    if number != number or number in (float("inf"), float("-inf")):
        return None, fault
    if declared.type == "integer":
        return (int(number), "") if number == int(number) else (None, fault)
    return number, ""


def _is_in_range(declared: Input, number: float) -> bool:
    return not (
        (declared.minimum is not None and number < declared.minimum)
        or (declared.maximum is not None and number > declared.maximum)
        or (declared.exclusive_minimum is not None and number <= declared.exclusive_minimum)
    )


def _expected(declared: Input) -> str:
    if declared.enum:
        return f"one of {', '.join(one for one in declared.enum if one not in declared.refused)}"
    noun = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}.get(
        declared.type, "a path"
    )
    low, high, above = declared.minimum, declared.maximum, declared.exclusive_minimum
    if low is not None and high is not None:
        return f"{noun} from {low:g} to {high:g}"
    if above is not None and high is not None:
        return f"{noun} above {above:g} and at most {high:g}"
    if above is not None:
        return f"{noun} above {above:g}"
    if low is not None:
        return f"{noun}, {low:g} or more"
    return f"{noun}, {high:g} or less" if high is not None else noun


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _show(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
