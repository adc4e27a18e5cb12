"""A request's body: bytes to JSON that can be answered, rendered and logged, or a refusal that names the part at fault."""

import json
import math
from collections.abc import Iterator
from typing import Any

from mafunzo.errors import Faults, InvalidParameter

MAX_DEPTH = 100
"""Objects and lists within one another: many more than a JSON schema needs, and far fewer than a recursion may take."""
MAX_FAULTS = 10

Step = str | int


def parse_body(content: bytes) -> Any:
    """Return a body as JSON; raises `InvalidParameter`, with `param`, for what is none or can't be processed.

    Python's parser takes more than JSON allows: NaN, numbers beyond any float, and halves of surrogate pairs, which no
    UTF-8 text can hold (a client that cuts a text between the two halves of an emoji sends one).
    """
    try:
        body = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidParameter(f"The body is nested too deeply: at most {MAX_DEPTH} levels are read.") from error
    except ValueError as error:
        raise InvalidParameter(f"The body isn't JSON: {error}") from error
    check_values(body)
    return body


def check_values(body: object) -> None:
    """Raise `InvalidParameter` with all values of a parsed body that can't be processed; `param` names the first."""
    faults, params = Faults(), []
    for param, message in _faults(body):
        faults.add(message)
        params.append(param)
        if len(faults) == MAX_FAULTS:
            break
    if params:
        raise InvalidParameter(" ".join(faults), param=params[0] or None)


def printable(text: str) -> str:
    """Return a text that UTF-8 can hold: a half of a surrogate pair is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} isn't a number in JSON")


def _faults(body: object) -> Iterator[tuple[str, str]]:
    """Yield the path and fault of each value at fault, in the order of the text; with a stack, since depth is a fault."""
    stack: list[tuple[tuple[Step, ...], object]] = [((), body)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict | list) and len(path) >= MAX_DEPTH:
            top = _path(path[:3])
            yield top, f"{top} is nested too deeply: at most {MAX_DEPTH} levels are read."
        elif isinstance(value, dict):
            stack += [((*path, key), item) for key, item in reversed(value.items())]
            if any(_has_half(key) for key in value):
                name = next(_path((*path, key)) for key in value if _has_half(key))
                yield name, f"The name of the field {name} {_HALF}"
        elif isinstance(value, list):
            stack += [((*path, index), item) for index, item in reversed(list(enumerate(value)))]
        elif isinstance(value, str) and _has_half(value):
            yield _path(path), f"{_path(path) or 'The body'} {_HALF}"
        elif isinstance(value, float) and math.isinf(value):
            yield _path(path), f"{_path(path) or 'The body'} is a number too large to compute with."


_HALF = "has half a character: a UTF-16 surrogate without its other half. Cut texts between whole characters."


def _has_half(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _path(path: tuple[Step, ...]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{printable(step)}" for step in path)
    return text.removeprefix(".")
