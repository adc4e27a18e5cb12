"""Moments that no change of the machine's clock moves: by how long the machine had been up."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Uptime:
    """`seconds` since the machine was started for the time that `boot` names; the time in which it slept counts."""

    boot: str
    seconds: float


def elapsed_s(start: datetime, start_uptime: Uptime | None, now: datetime, uptime: Uptime | None) -> float:
    """Return the seconds from `start` to now: by the clock only where the machine was started anew between."""
    if start_uptime is not None and uptime is not None and start_uptime.boot == uptime.boot:
        return uptime.seconds - start_uptime.seconds
    return (now - start).total_seconds()
