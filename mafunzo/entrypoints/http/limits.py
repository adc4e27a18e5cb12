"""All size and rate limits of requests, on both ports.

Each field of `Limits` is a setting: the environment variable `MAFUNZO_LIMIT_<FIELD>` of the server changes it
(`docs/reference/limits.md`). Limits that a protocol itself sets, such as the length of a blob's name, stand with the protocol.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mafunzo.errors import Faults, MafunzoError, RateLimitExceeded, Unavailable

MB = 2**20


@dataclass(frozen=True)
class Limits:
    """The limits of what a client may request.

    Of a request's head:
    head_bytes: its line and headers together. headers: how many.
    Of its body:
    chat_body_bytes: of chat and text completions, and of `/score`. azure_body_bytes: of Azure ML's JSON. mlflow_body_bytes: of
    what MLflow's model registry and the making of a run take. upload_bytes: of a blob in one request; a larger one comes in
    blocks. block_list_bytes: of the list that puts blocks together.
    Of slow clients:
    head_s: until a request's line and headers are here, from the connection or the last answer on. body_s: how far a client may
    fall behind slowest_bytes_per_s, the slowest rate at which a body may come. linger_s: how long a client may go on sending a
    body once it has its answer, and how long its connection may take to close. reading_s: how long a client may take no bytes
    of an answer that waits for it.
    Of how many at once:
    connections_waiting: connections that the system holds until the server takes them. score_conversations: conversations in
    one request to `/score`.
    requests_in_flight: requests that one deployment answers or queues; one more is refused with the status 429, unless its
    caller has less than an equal share of them.
    requests_at_once: how many of them each of its workers has; the others wait, those of several callers in turns.
    retry_after_s: when whoever is refused with 429 or 503 should ask again.
    """

    head_bytes: int = 64 * 2**10
    headers: int = 128
    chat_body_bytes: int = 32 * MB
    azure_body_bytes: int = 8 * MB
    mlflow_body_bytes: int = 8 * MB
    upload_bytes: int = 5000 * MB
    block_list_bytes: int = 8 * MB
    head_s: float = 15.0
    body_s: float = 30.0
    slowest_bytes_per_s: int = 1024
    linger_s: float = 30.0
    reading_s: float = 60.0
    connections_waiting: int = 1024
    score_conversations: int = 64
    requests_in_flight: int = 256
    requests_at_once: int = 16
    retry_after_s: int = 1


DEFAULTS = Limits()


def variable_of(field: str) -> str:
    """Return the environment variable that sets a limit."""
    return f"MAFUNZO_LIMIT_{field.upper()}"


def retry_after(error: MafunzoError, limits: Limits) -> dict[str, str]:
    """Return the header that says when to ask again, for an error that may not be one then."""
    if not isinstance(error, Unavailable | RateLimitExceeded):
        return {}
    seconds = error.retry_after_s if isinstance(error, RateLimitExceeded) else None
    return {"Retry-After": str(limits.retry_after_s if seconds is None else max(1, math.ceil(seconds)))}


def limits_from_texts(texts: Mapping[str, str]) -> Limits:
    """Return the limits that a server's environment sets, by variable; raises `InvalidParameter` with all faults."""
    kinds = {variable_of(field.name): (field.name, field.type) for field in fields(Limits)}
    faults = Faults()
    values: dict[str, Any] = {}
    for variable, text in texts.items():
        if variable not in kinds:
            faults.add(f"{variable} is not a limit. There are: {', '.join(kinds)}.")
            continue
        name, kind = kinds[variable]
        number = _number(text, is_whole=kind is int)
        if number is None:
            faults.add(f"{variable} is '{text}', expected a {'whole ' if kind is int else ''}number above 0.")
        else:
            values[name] = number
    faults.require_none("The server's limits can't be read from its environment.")
    return Limits(**values)


def _number(text: str, is_whole: bool) -> int | float | None:
    pattern = r"[0-9]{1,15}" if is_whole else r"[0-9]{1,15}(\.[0-9]{1,6})?"
    number = (int(text) if is_whole else float(text)) if re.fullmatch(pattern, text.strip()) else 0
    return number or None
