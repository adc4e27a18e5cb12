"""Machines: the sizes on offer and what this one has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineSize:
    """A size on offer, under Azure's name or `local`."""

    name: str
    cpus: int
    memory_gb: float
    gpus: int
    gpu_name: str = ""
    gpu_memory_gb: float = 0.0


@dataclass(frozen=True)
class Hardware:
    """What this machine has: cores, memory, GPUs by name."""

    cpus: int
    memory_mb: int
    gpus: tuple[str, ...] = ()
