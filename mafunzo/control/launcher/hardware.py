"""The hardware that we may use: cores, memory and GPUs, limited by affinity and control groups (cgroups)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from mafunzo.entities.compute import Hardware
from mafunzo.entities.job import Resources

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def hardware() -> Hardware:
    """Return what this process may use; a container's limits count, not its host's size."""
    return Hardware(cpus=_cpus(), memory_mb=_memory() // 2**20, gpus=_gpus())


def capacity(of: Hardware) -> Resources:
    """Return the hardware as what leases are taken from."""
    return Resources(cpus=of.cpus, gpus=len(of.gpus), memory_mb=of.memory_mb)


def _cpus() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [float(quota) / float(period) for quota, period in _limits("cpu.max", 2) if quota != "max"]
    quotas += [
        float(quota) / 100_000 for (quota,) in _limits("cpu/cpu.cfs_quota_us", 1) if float(quota) > 0
    ]  # control groups of version 1
    return max(1, min([allowed, *(int(quota + 0.5) for quota in quotas)]))


def _memory() -> int:
    """Bytes."""
    limits = [int(limit) for (limit,) in _limits("memory.max", 1) if limit != "max"]
    limits += [int(limit) for (limit,) in _limits("memory/memory.limit_in_bytes", 1)]
    return min([psutil.virtual_memory().total, *limits])


def _limits(name: str, fields: int) -> Iterator[list[str]]:
    """Yield the fields of a control group's file, from this process's group up to the root."""
    for group in _groups():
        try:
            values = (group / name).read_text().split()
        except OSError:
            continue
        if len(values) == fields:
            yield values


def _groups() -> list[Path]:
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return []
    inner = next((line.split("::", 1)[1].strip("/") for line in lines if line.startswith("0::")), "")
    parts = inner.split("/") if inner else []
    return [CGROUPS.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _gpus() -> tuple[str, ...]:
    """The names as NVIDIA's driver tells them; none without its tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # the tool without a driver: no GPU that could be used
        return ()
    return tuple(line.strip() for line in answer.splitlines() if line.strip())
