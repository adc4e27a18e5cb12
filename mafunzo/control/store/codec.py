"""Serialization of entities to plain JSON and back, by type hints.

A field that a stored row lacks takes its default; one that the entity doesn't know was written by a newer version and is
refused, because writing the row back would lose it.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_args, get_origin

from mafunzo.errors import NewerHome

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Return `value` (a dataclass, enum, moment, mapping, sequence or scalar) as plain JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        assert value.tzinfo is not None, "a moment without its offset says nothing"
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(f"{value!r} is no JSON value and no entity")


def decode(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Return the entity of dataclass `kind` that was encoded into `fields`. Raises `NewerHome` for an unknown field."""
    hints = _hints(typing.cast(Hashable, kind))
    unknown = sorted(set(fields) - set(hints))
    if unknown:
        raise NewerHome(
            f"A stored {kind.__name__} has the field {', '.join(unknown)}, which this version doesn't know: "
            "a newer Mafunzo wrote it. Run pip install -U mafunzo."
        )
    return kind(**{name: _decode(hints[name], value) for name, value in fields.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _decode(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if value is None or hint is Any or origin is typing.Literal:
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value)
    if origin is tuple:
        return tuple(_decode(arguments[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return {key: _decode(arguments[1], item) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, value)
    if isinstance(hint, type) and issubclass(hint, datetime):
        return datetime.fromisoformat(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    return value


def _decode_union(members: tuple[Any, ...], value: Any) -> Any:
    """Of several dataclasses, the one with just the fields that were stored; of `X | None`, X."""
    kinds = [member for member in members if dataclasses.is_dataclass(member)]
    if kinds and isinstance(value, Mapping):
        exact = [kind for kind in kinds if set(_hints(typing.cast(Hashable, kind))) == set(value)]
        return _decode((exact or kinds)[0], value)
    others = [member for member in members if member is not type(None) and member not in kinds]
    return _decode(others[0], value) if len(others) == 1 else value
