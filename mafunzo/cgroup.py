"""Control groups (cgroups, versions 1 and 2): what a container or service manager allows this process, and what is used.

A limit holds for a group and all below it, so each is asked of this process's own group and of those above it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Return how many cores' time this process may use: those that it may run on, and no more than its groups' quotas."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota + 0.5) for quota in cpu_limits())]))


def cpu_limits() -> Iterator[float]:
    """Yield how many cores' time each group may use, where it has a quota."""
    for group in _groups(""):
        if len(words := _words(group / "cpu.max")) == 2 and words[0] != "max":
            yield float(words[0]) / float(words[1])
    for group in _groups("cpu"):
        quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
        if quota and float(quota[0]) > 0:
            yield float(quota[0]) / float(period[0] if period else 100_000)


def usable_memory_bytes() -> int:
    """Return how much memory this process may use at all: the machine's, and no more than its groups' limits."""
    import psutil  # the runner, which asks for nothing but `oom_kills`, does without

    return min([psutil.virtual_memory().total, *(limit for limit, _ in memory_limits())])


def memory_limits() -> Iterator[tuple[int, int]]:
    """Yield the limit of each group that has one, and what is used of it, in bytes; cached files that can go don't count."""
    for group in _groups(""):
        if (words := _words(group / "memory.max")) and words[0] != "max":
            yield int(words[0]), _used(group, "memory.current", "inactive_file")
    for group in _groups("memory"):
        if words := _words(group / "memory.limit_in_bytes"):
            yield int(words[0]), _used(group, "memory.usage_in_bytes", "total_inactive_file")


def oom_kills() -> int:
    """Return how many processes of our own group the kernel has ended for want of memory; 0 where it doesn't tell."""
    places = [group / "memory.events" for group in _groups("")[:1]]
    places += [group / "memory.oom_control" for group in _groups("memory")[:1]]
    counts = [words for place in places if "oom_kill" in (words := _words(place))]
    return sum(int(words[words.index("oom_kill") + 1]) for words in counts)


def _used(group: Path, name: str, reclaimable: str) -> int:
    words = _words(group / "memory.stat")
    cached = int(words[words.index(reclaimable) + 1]) if reclaimable in words else 0
    return max(0, int(next(iter(_words(group / name)), 0)) - cached)


def _groups(controller: str) -> list[Path]:
    """Return this process's group of a controller of version 1, or of version 2 (no name), and those above it."""
    try:
        lines = [line.split(":", 2) for line in MEMBERSHIP.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    path = next((path for _, names, path in lines if controller in names.split(",")), "")
    parts = [part for part in path.split("/") if part]
    return [ROOT.joinpath(controller, *parts[:depth]) for depth in range(len(parts), -1, -1)]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []
