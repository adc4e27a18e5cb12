"""Processes by their id."""

import psutil


def lives(pid: int) -> bool:
    """Return whether a process runs: one that has ended, and whose parent hasn't looked yet, doesn't."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
