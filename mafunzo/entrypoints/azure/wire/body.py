"""Checks of every request body of Azure ML's wire: its shape, and texts that can be stored.

The readers of bodies rely on this: a field named here is an object, or a whole number, or isn't there.
"""

import re
from collections.abc import Iterator
from typing import Any

from mafunzo.errors import Faults, InvalidParameter

DEPTH_LIMIT = 64
OBJECTS = (
    "identity",
    "properties",
    "properties.componentSpec",
    "properties.componentSpec.distribution",
    "properties.componentSpec.environment_variables",
    "properties.componentSpec.inputs",
    "properties.componentSpec.jobs",
    "properties.componentSpec.jobs.*",
    "properties.componentSpec.limits",
    "properties.componentSpec.outputs",
    "properties.componentSpec.resources",
    "properties.distribution",
    "properties.environmentVariables",
    "properties.flavors",
    "properties.inputs",
    "properties.inputs.*",
    "properties.jobs",
    "properties.jobs.*",
    "properties.jobs.*.distribution",
    "properties.jobs.*.environmentVariables",
    "properties.jobs.*.environment_variables",
    "properties.jobs.*.inputs",
    "properties.jobs.*.limits",
    "properties.jobs.*.outputs",
    "properties.jobs.*.resources",
    "properties.jobs.*.services",
    "properties.jobs.*.services.*",
    "properties.limits",
    "properties.livenessProbe",
    "properties.mirrorTraffic",
    "properties.outputs",
    "properties.outputs.*",
    "properties.properties",
    "properties.properties.scaleSettings",
    "properties.readinessProbe",
    "properties.requestSettings",
    "properties.resources",
    "properties.scaleSettings",
    "properties.services",
    "properties.services.*",
    "properties.settings",
    "properties.tags",
    "sku",
    "tags",
)
NUMBERS = (
    "properties.properties.scaleSettings.maxNodeCount",
    "properties.properties.scaleSettings.minNodeCount",
)
_NOT_STORED = re.compile(r"[\x00\ud800-\udfff]")


def check_body(body: dict[str, Any]) -> None:
    """Raise `InvalidParameter` with all that is wrong with a body's outline."""
    faults = Faults()
    for paths, expected, is_good in (
        (OBJECTS, "an object", _is_object),
        (NUMBERS, "a number", _is_number),
    ):
        fields = (field for path in paths for field in _below("", body, path.split(".")))
        wrong = [(path, value) for path, value in fields if not (value is None or is_good(value))]
        faults.add(*(f"{path} is {value!r:.40}, expected {expected}." for path, value in wrong))
    faults.require_none("The request's body isn't what Azure ML's would be.")
    _check_values(body)


def _below(path: str, value: Any, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield what stands below a value at these names, of which `*` is any, each with its path."""
    if not names:
        yield path.lstrip("."), value
    elif isinstance(value, dict):
        for name in value if names[0] == "*" else [names[0]]:
            if name in value:
                yield from _below(f"{path}.{name}", value[name], names[1:])


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _check_values(body: dict[str, Any]) -> None:
    """Raise `InvalidParameter` for a body that is nested too deeply, or a text that no database stores."""
    left: list[tuple[Any, int]] = [(body, 1)]
    while left:
        value, depth = left.pop()
        if depth > DEPTH_LIMIT:
            raise InvalidParameter(f"The request's body is nested more than {DEPTH_LIMIT} levels deep.")
        if isinstance(value, dict):
            left += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            left += [(part, depth + 1) for part in value]
        elif isinstance(value, str) and _NOT_STORED.search(value):
            raise InvalidParameter(f"{value!r:.60} has a NUL or half a character in it.")
