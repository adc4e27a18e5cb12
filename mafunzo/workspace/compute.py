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
        return catalog.machine_sizes(self.hardware())

    def get(self, name: str) -> MachineSize:
        """Return one size, `local` or one of Azure's names; raises `NotFound` with near names."""
        return catalog.machine_size(name, self.hardware())


@functools.cache
def _hardware() -> Hardware:
    return hardware()
