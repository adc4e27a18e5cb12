"""Texts with bindings to a pipeline's inputs in them, such as `run-${{parent.inputs.x}}`, and their substitution."""

import re
from collections.abc import Mapping
from typing import Any

from mafunzo.entities.component import PARENT_INPUT, STEP_OUTPUT, Input, parse_value, unknown_name
from mafunzo.errors import Faults

_BINDING = re.compile(r"\$\{\{.*?\}\}")


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
        hint = unknown_name(match[1], [name for name in values if values[name] is not None]).partition("parameter.")[2]
        return "", f"but no input {match[1]} is given.{hint}"
    value, fault = parse_value(Input(match[1], "string"), argument)
    return ("", f"but {match[1]} is a file or folder, expected a value.") if fault else (str(value), "")
