"""The hardware that we may use: cores, memory and GPUs, limited by affinity and control groups (cgroups)."""

import re
import shutil
import subprocess
from pathlib import Path

from mafunzo import cgroup
from mafunzo.entities.compute import HalfFormats, Hardware
from mafunzo.entities.job import Resources

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
CONVERTING_FLAGS = {"avx_ne_convert"}
AVX512_FLAGS = {"avx512bw", "avx512vl", "avx512dq"}


def hardware() -> Hardware:
    """Return what this process may use; a container's limits count, not its host's size."""
    return Hardware(cpus=cgroup.usable_cpus(), memory_mb=cgroup.usable_memory_bytes() // 2**20, gpus=_gpus())


def capacity(of: Hardware) -> Resources:
    """Return the hardware as what leases are taken from."""
    return Resources(cpus=of.cpus, gpus=len(of.gpus), memory_mb=of.memory_mb)


def half_formats(has_gpu: bool, cpuinfo: Path = CPUINFO) -> HalfFormats:
    """Return the 16-bit number formats of the device that workers compute on.

    A CPU multiplies bfloat16 where oneDNN does: with the instructions for it, or with AVX-512, by converting on the way.
    """
    if has_gpu:
        return HalfFormats(frozenset({"bfloat16", "float16"}))
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return HalfFormats()
    cores = [set(line.split()) for line in re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)]
    flags = set.intersection(*cores) if cores else set()
    bfloat16 = frozenset({"bfloat16"})
    if flags & BFLOAT16_FLAGS:
        return HalfFormats(computed=bfloat16)
    return HalfFormats(converted=bfloat16 if flags & CONVERTING_FLAGS or flags >= AVX512_FLAGS else frozenset())


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
