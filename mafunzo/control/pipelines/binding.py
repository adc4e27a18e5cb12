"""Bindings: what feeds the inputs of a job and of its steps, checked against their declarations. Pure.

A text may have bindings in it, such as `run-${{parent.inputs.x}}`; they are replaced by the pipeline's input values.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mafunzo.entities.component import (
    PARENT_INPUT,
    STEP_OUTPUT,
    Component,
    Input,
    Node,
    NodeInput,
    Output,
    parse_value,
    unknown_name,
)
from mafunzo.entities.job import ArtifactInput, LiteralInput, StepInput, StepOutputInput, Value
from mafunzo.entities.job_request import RequestInput
from mafunzo.errors import Faults

ACCEPTS = {  # an input's type to the types that may feed it: a model is a folder, and MLflow's kind of model is a model
    "uri_file": ("uri_file",),
    "uri_folder": ("uri_folder", "custom_model", "mlflow_model", "mltable"),
    "custom_model": ("custom_model", "uri_folder", "mlflow_model"),
    "mlflow_model": ("mlflow_model",),
    "mltable": ("mltable",),
}
_BINDING = re.compile(r"\$\{\{.*?\}\}")


@dataclass(frozen=True)
class Broken:
    """An input whose fault is reported already, so that what depends on it reports none."""


JobInput = Value | ArtifactInput | Broken
WrittenOutputs = Mapping[str, Mapping[str, Output] | None]
"""By step, the outputs that its component declares; None where the component isn't known, which is reported at that step."""


def check_inputs(
    pipeline: Component, requested: Mapping[str, RequestInput | None], faults: Faults
) -> dict[str, JobInput]:
    """Return the effective inputs: the request's values, else the defaults; an optional one without a value is left out."""
    canonical = {alias: name for name, declared in pipeline.inputs.items() for alias in (name, *declared.aliases)}
    by_name: dict[str, RequestInput] = {}
    for spelled, value in requested.items():
        name = canonical.get(spelled)
        if name is None:
            faults.add(unknown_name(spelled, canonical))
        elif value is not None and name in by_name:
            faults.add(f"{name} is given twice, also as {spelled}. Give it once.")
        elif value is not None:
            by_name[name] = value
    effective: dict[str, JobInput] = {}
    for name, declared in pipeline.inputs.items():
        value = by_name.get(name, declared.default)
        if value is None:
            if declared.is_required:
                faults.add(f"{name} is missing, expected {article(declared.type)}.")
                effective[name] = Broken()
            continue
        checked, fault = _check(declared, value)
        faults.add(fault)
        effective[name] = checked
    return effective


def _check(declared: Input, value: RequestInput) -> tuple[JobInput, str]:
    """Return the value as its declared type and an empty text, or `Broken` and the fault."""
    if isinstance(value, ArtifactInput):
        if not declared.is_path:
            return Broken(), f"{declared.name} is a file or folder, expected {article(declared.type)}."
        reason = declared.refused.get("*", "")
        return (Broken(), f"{declared.name} is given: {reason}") if reason else (value, "")
    if declared.is_path:
        return Broken(), f"{declared.name} is '{value}', expected {article(declared.type)} of the store."
    parsed, fault = parse_value(declared, value)
    return (Broken() if parsed is None else parsed), fault


@dataclass(frozen=True)
class Sources:
    """What a pipeline's steps may be bound to: its inputs, which have values or not, and outputs of its steps."""

    inputs: Mapping[str, Input]
    values: Mapping[str, JobInput]
    outputs: WrittenOutputs

    def bind(self, declared: Input, written: NodeInput | None, faults: Faults) -> StepInput | Broken | None:
        """Return what feeds a step's input; None for an optional input of the job without a value."""
        if written is None:
            return None
        value: NodeInput | Broken = written
        text = written.strip() if isinstance(written, str) else ""
        if match := STEP_OUTPUT.fullmatch(text):
            return self._bind_output(declared, match[1], match[2], faults)
        if match := PARENT_INPUT.fullmatch(text):
            source = self.inputs.get(match[1])
            if source is None:
                unknown = unknown_name(match[1], self.inputs).replace("is not a parameter", "is not an input of it")
                return _broken(faults, f"{declared.name} comes from the job's input {match[1]}, but {unknown}")
            if not can_feed(source.type, declared.type):
                return _broken(faults, _mismatch(declared, f"the job's input {source.name}", source.type))
            if source.name not in self.values:
                return None
            value = self.values[source.name]
        elif isinstance(written, str) and "${{" in written:
            value = self.filled(declared.name, written, faults)
        if isinstance(value, Broken):
            return value
        checked, fault = _check(declared, value)
        faults.add(fault)
        return checked if isinstance(checked, ArtifactInput | Broken) else LiteralInput(checked)

    def filled(self, who: str, text: str, faults: Faults) -> str | Broken:
        """Return a text with the job's values in the place of its bindings, or its fault added."""
        if any(isinstance(self.values.get(name), Broken) for name in inputs_of(text)):
            return Broken()
        whole, fault = filled(text, self.values)
        faults.add(f"{who} {fault}" if fault else "")
        return Broken() if fault else whole

    def _bind_output(self, declared: Input, step: str, output: str, faults: Faults) -> StepOutputInput | Broken:
        if step not in self.outputs:
            hint = near_name(step, self.outputs)
            return _broken(faults, f"{declared.name} comes from step '{step}', which the job doesn't have.{hint}")
        outputs = self.outputs[step]
        if outputs is None:
            return Broken()
        if output not in outputs:
            hint = near_name(output, outputs)
            return _broken(
                faults,
                f"{declared.name} comes from output {output} of step '{step}', which has none of that name.{hint}",
            )
        if not can_feed(outputs[output].type, declared.type):
            return _broken(faults, _mismatch(declared, f"output {output} of step '{step}'", outputs[output].type))
        return StepOutputInput(step, output)


def upstream_of(node: Node) -> set[str]:
    """Return the steps whose outputs a node takes."""
    matches = [STEP_OUTPUT.fullmatch(value.strip()) for value in node.inputs.values() if isinstance(value, str)]
    return {match[1] for match in matches if match}


def can_feed(source: str, target: str) -> bool:
    """Literals feed literals (their values are checked), files and folders what accepts them."""
    return source in ACCEPTS[target] if target in ACCEPTS else source not in ACCEPTS


def near_name(name: str, known: Iterable[str]) -> str:
    """Return the end of the fault that `name` isn't known: the nearest one that is, if any."""
    return unknown_name(name, known).partition("parameter.")[2]


def article(kind: str) -> str:
    """Return a type with its article, for people."""
    names = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
    return names.get(kind, f"an {kind}" if kind in ("mlflow_model", "mltable") else f"a {kind}")


def as_json(value: JobInput) -> Any:
    """Return an input as JSON can hold it."""
    return {"artifact": value.artifact, "name": value.name} if isinstance(value, ArtifactInput) else value


def _broken(faults: Faults, fault: str) -> Broken:
    faults.add(fault)
    return Broken()


def _mismatch(declared: Input, source: str, kind: str) -> str:
    return f"{declared.name} takes {article(declared.type)}, but {source} is {article(kind)}."


def inputs_of(text: str) -> set[str]:
    """Return the names of the pipeline's inputs that a text has bindings to."""
    return set(PARENT_INPUT.findall(text))


def filled(text: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text with the pipeline's input `values` in the place of its bindings, and an empty text for no fault.

    Only values can stand in a text. A value isn't looked through for bindings of its own.
    """
    faults = Faults()

    def value(match: re.Match[str]) -> str:
        replacement, fault = _value(match[0], values)
        faults.add(fault)
        return replacement

    whole = _BINDING.sub(value, text)
    if "${{" in _BINDING.sub("", text):
        faults.add(_EXPECTED)
    return ("", f"is '{text}', {next(iter(faults))}") if faults else (whole, "")


_EXPECTED = "expected a value, ${{parent.inputs.<name>}} or ${{parent.jobs.<step>.outputs.<name>}}."


def _value(binding: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the value of a binding and an empty text, or an empty text and the fault."""
    if STEP_OUTPUT.fullmatch(binding):
        return "", "but what a step writes is a file or folder, expected a value."
    match = PARENT_INPUT.fullmatch(binding)
    if match is None:
        return "", _EXPECTED
    argument = values.get(match[1])
    if argument is None:
        hint = near_name(match[1], [name for name in values if values[name] is not None])
        return "", f"but no input {match[1]} is given.{hint}"
    value, fault = parse_value(Input(match[1], "string"), argument)
    return ("", f"but {match[1]} is a file or folder, expected a value.") if fault else (str(value), "")
