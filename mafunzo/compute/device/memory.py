"""Memory: what this process holds and may still take, of the machine, of its control groups, or of the accelerator."""

import re
from pathlib import Path

import psutil
import torch

from mafunzo import cgroup
from mafunzo.compute.device.allocator import give_back_freed_memory


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free, on the device that computes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([psutil.virtual_memory().available, *(limit - used for limit, used in cgroup.memory_limits())])


def used_bytes(device: torch.device) -> int:
    """Return how much memory this process holds, on the device that computes."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: torch.device, status: Path = Path("/proc/self/status")) -> int:
    """Return the most memory that this process has held since it began, on the device that computes.

    On systems without /proc: what it holds now.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    try:
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        peak = None
    return int(peak[1]) * 1024 if peak else used_bytes(device)


def release(device: torch.device, error: BaseException | None = None) -> None:
    """Give back what this process no longer uses, after memory ran out, so that smaller blocks find room.

    error: what said so; the frames that it came through hold what they had made, so that these are let go.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        give_back_freed_memory()
