"""Machines: the sizes on offer, and what this one has."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from mafunzo.entities.compute import Hardware, MachineSize
from mafunzo.launcher.hardware import hardware
from mafunzo.store import catalog

if TYPE_CHECKING:
    from mafunzo.workspace.workspace import Workspace


class Computes:
    """The verbs on machines."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def hardware(self) -> Hardware:
        """Return what this machine has."""
        return _hardware()

    def sizes(self) -> list[MachineSize]:
        """Return the sizes on offer: `local`, which is this machine, then Azure's names."""
        found = self.hardware()
        local = MachineSize(
            name="local",
            cpus=found.cpus,
            memory_gb=round(found.memory_mb / 1024, 1),
            gpus=len(found.gpus),
            gpu_name=found.gpus[0] if found.gpus else "",
        )
        return [local, *(size for size in catalog.machine_sizes() if size.name != "local")]


@functools.cache
def _hardware() -> Hardware:
    return hardware()
