"""Machines: the sizes on offer, what this one has, clusters by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

WIDENED_SHARE = 0.5
"""The share of a machine's memory that weights may take in float32."""


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
class HalfFormats:
    """The 16-bit number formats of a device: computed by instructions of its own, or converted on the way to float32.

    Converting is slower than float32 all the way (measured on AVX-512 without bfloat16: a prompt takes 2.5 times as long, a
    reply 1.2 to 1.9 times), and is only for weights that would leave too little memory in float32.
    """

    computed: frozenset[str] = frozenset()
    converted: frozenset[str] = frozenset()

    def held(self, half_bytes: int, memory_bytes: int) -> frozenset[str]:
        """Return the formats in which weights of `half_bytes` are held as stored; others take float32, twice as much."""
        return self.computed | (self.converted if 2 * half_bytes > WIDENED_SHARE * memory_bytes else frozenset())


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
