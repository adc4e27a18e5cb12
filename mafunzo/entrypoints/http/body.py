"""Taking in a request's body, up to a limit."""

import json
import math
from typing import Any

from starlette.requests import Request

from mafunzo.errors import InvalidParameter


async def limited_body(request: Request, most_bytes: int) -> bytes:
    """Return a request's body; raises `InvalidParameter` as soon as it is larger than `most_bytes`."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most_bytes:
            raise InvalidParameter(f"The request's body is larger than {_size(most_bytes)}.")
        chunks.append(chunk)
    return b"".join(chunks)


async def limited_json(request: Request, most_bytes: int) -> Any:
    """Return a request's body as JSON; raises `InvalidParameter` for what is none, is too large or is nested too deeply."""
    return json_of(await limited_body(request, most_bytes))


def json_of(body: bytes) -> Any:
    """Return a body as JSON; raises `InvalidParameter` for what is none, or is nested too deeply."""
    try:
        return json.loads(body, parse_constant=_no_number, parse_float=_finite)
    except ValueError as error:
        raise InvalidParameter("The request's body isn't JSON.") from error
    except RecursionError as error:
        raise InvalidParameter("The request's JSON is nested too deeply.") from error


def _size(count: int) -> str:
    return f"{count // 2**20} MB" if count % 2**20 == 0 else f"{count} bytes"


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON's")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    return number
