"""Waiting for an event itself, however slow the machine is: no outcome of a test hangs on how long something takes."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

Result = TypeVar("Result")

LIMIT_S = 900.0
"""The net for what never comes. It is far above all that a loaded machine needs, and below pytest's own limit of a test."""

http = httpx.Client(timeout=LIMIT_S, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
"""A client whose answers may take their time, and that keeps no connection open to a server that is about to end."""


def pause() -> None:
    time.sleep(0.05)


def until(
    condition: Callable[[], Result], state: Callable[[], object] = str, between: Callable[[], object] = pause
) -> Result:
    """Return what `condition` returns once that is true; what `state` returns stands in the error of a wait without end."""
    limit = time.monotonic() + LIMIT_S
    while not (result := condition()):
        assert time.monotonic() < limit, f"It didn't come about within {LIMIT_S:.0f} s. {state()}"
        between()
    return result
