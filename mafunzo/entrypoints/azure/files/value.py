"""Validation of the scalar values of `az ml` files, and the stand-ins for faulty ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mafunzo.entities.duration import seconds_of
from mafunzo.errors import InvalidParameter


class Leaf(StrEnum):
    """The type of a leaf key's value: a text or number, only a number, texts or numbers by name, or anything."""

    SCALAR = "a text or a number"
    SCALARS = "names with a text or a number each"
    WHOLE = "a whole number, 0 or more"
    NUMBER = "a number"
    SECONDS = "whole seconds, or an ISO 8601 duration such as PT120S"
    ANYTHING = "anything"


@dataclass(frozen=True)
class OneOf:
    """One of a few texts, case-insensitive. aliases: other spellings, which errors don't list."""

    texts: tuple[str, ...]
    aliases: tuple[str, ...] = ()


_STAND_INS: Mapping[Leaf, Any] = {Leaf.WHOLE: 1, Leaf.NUMBER: 0.5, Leaf.SECONDS: 1}


def value_fault(leaf: Leaf | OneOf, value: Any) -> str:
    """Return what is wrong with a value, as in `'abc', expected a number.`; an empty text for a good one."""
    if isinstance(leaf, OneOf):
        is_good = str(value).lower() in (text.lower() for text in (*leaf.texts, *leaf.aliases))
        return "" if is_good else f"{written(value)}, expected {' or '.join(leaf.texts)}."
    return "" if _GOOD[leaf](value) else f"{written(value)}, expected {leaf}."


def stand_in(leaf: Leaf | OneOf) -> Any:
    """Return a good value to read the rest of a file with; None where there is none."""
    return leaf.texts[0] if isinstance(leaf, OneOf) else _STAND_INS.get(leaf)


def number_of(value: Any) -> Any:
    """Return the number in a text, since YAML reads 1e-4 as text; anything else as it is."""
    return float(value) if isinstance(value, str) and _is_number(value) else value


def written(value: Any) -> str:
    """Return a value as faults show it."""
    return "a list" if isinstance(value, list) else "a mapping" if isinstance(value, Mapping) else f"'{value}'"


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, Mapping | list)


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
}
