"""Validation of what our own files say, with every fault at once."""

from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from mafunzo.errors import InvalidFile

T = TypeVar("T")


def validated(message: str, validate: Callable[[], T], most: int | None = None) -> T:
    """Return what `validate` makes of a body. Raises `InvalidFile` with `message` and a fault a place, at `most` so many."""
    try:
        return validate()
    except ValidationError as error:
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise InvalidFile(message, faults[:most]) from error
