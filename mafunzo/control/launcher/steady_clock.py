"""The clock that limits are measured by: it begins when the machine starts, and nobody sets it."""

import time

from mafunzo.control.launcher.runner import boot_id
from mafunzo.entities.uptime import Uptime


def uptime() -> Uptime | None:
    """Return the moment by the machine's uptime; None where the system doesn't say which start of it this is."""
    boot = boot_id()
    return Uptime(boot, steady_s()) if boot else None


def steady_s() -> float:
    """Return seconds since the machine started, those that it slept too where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
