"""Machines: the sizes on offer, what this one has, clusters by name."""

from collections.abc import Mapping, Sequence
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
    address: of a Ray cluster, `HOST:PORT` as Ray has it: training runs there, on its nodes; it has no size.
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
    address: str = ""

    @property
    def is_ray(self) -> bool:
        """Whether it is a Ray cluster."""
        return bool(self.address)


@dataclass(frozen=True)
class ClusterNode:
    """A node of a Ray cluster that has cores for steps: a machine that is connected to the cluster now."""

    host: str
    cpus: int
    gpus: int = 0


@dataclass(frozen=True)
class Placement:
    """Where the processes of a step run, if not on this machine: on nodes of a Ray cluster.

    compute: the cluster's name. nodes: how many are asked for; where fewer are there, these run. gpus: how many processes
    a node runs, on a GPU each, as far as it has them; cpu_processes: how many where it has none. is_strict: fewer nodes or GPUs
    are refused.
    """

    compute: str
    nodes: int = 1
    gpus: int = 1
    cpu_processes: int = 1
    is_strict: bool = False

    def processes_on(self, node: ClusterNode) -> int:
        """Return how many processes run on a node."""
        return min(self.gpus, node.gpus) or self.cpu_processes

    def choose(self, nodes: Sequence[ClusterNode]) -> Sequence[ClusterNode]:
        """Return the nodes that train, of those that are there: all compute alike, on GPUs if any has one."""
        with_gpus = [node for node in nodes if node.gpus]
        return (with_gpus or list(nodes))[: self.nodes]

    def shortage(self, nodes: Sequence[ClusterNode]) -> str:
        """Return what the cluster's nodes lack of what is asked for, in words; empty where they lack nothing."""
        chosen = self.choose(nodes)
        gpus = sum(min(self.gpus, node.gpus) for node in chosen)
        wanted, there = f"{self.nodes} node(s)", f"{len(chosen)} node(s)"
        if self.gpus > 1 or gpus:
            wanted, there = f"{wanted} with {self.gpus} GPU(s) each", f"{there} with {gpus} GPU(s) in all"
        is_short = len(chosen) < self.nodes or self.nodes * self.gpus > max(len(chosen), gpus)
        return f"{wanted} are asked for, compute '{self.compute}' has {there}" if is_short else ""
