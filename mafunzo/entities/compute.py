"""Machines: the sizes on offer, what this one has, clusters by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class MachineSize:
    """A size on offer, under the name that users of a cloud write, or `local`."""

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


@dataclass(frozen=True)
class Compute:
    """A cluster that a user made under a name of their own, as jobs write it. Its steps run on this machine, whatever its size.

    size: a machine size's name. tier: dedicated or low_priority. idle_s: how long a cloud would keep an idle machine.
    echoes: what a way in keeps of a request's original body, under its own name, to answer with it; nothing else reads it.
    """

    name: str
    size: str
    tier: str = "dedicated"
    min_instances: int = 0
    max_instances: int = 1
    idle_s: int = 120
    tags: Mapping[str, str] = field(default_factory=dict)
    created_by: str = ""
    created_at: datetime | None = None
    echoes: Mapping[str, Any] = field(default_factory=dict)
