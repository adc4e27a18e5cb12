"""Machines: the sizes on offer, what this one has, and clusters under names of the user's own, of Ray too."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mafunzo.control.launcher.hardware import hardware
from mafunzo.control.launcher.ray_cluster import address_fault, environment_token, nodes_of
from mafunzo.control.store import catalog
from mafunzo.control.store.catalog import LOCAL
from mafunzo.control.store.cluster_token import keep_token, token_of
from mafunzo.control.workspace.services import Services
from mafunzo.entities.compute import ClusterNode, Compute, Hardware, MachineSize
from mafunzo.errors import Conflict, Faults

SERVERLESS = "serverless"
"""What clients of a cloud send for a job that names no compute."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,31}")
"""2 to 32 letters, digits and hyphens, a letter first."""
TIERS = ("dedicated", "low_priority")
Clusters = list[Compute]  # the class below has a verb called list
Nodes = list[ClusterNode]
Texts = list[str]


class Computes:
    """The verbs on machines."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def hardware(self) -> Hardware:
        """Return what this machine has."""
        return _hardware()

    def sizes(self) -> list[MachineSize]:
        """Return the sizes on offer: `local`, which is this machine, then those of a cloud."""
        return catalog.machine_sizes(self.hardware())

    def get(self, name: str) -> MachineSize:
        """Return one size, `local` or one of a cloud's; raises `NotFound` with near names."""
        return catalog.machine_size(name, self.hardware())

    def list(self, limit: int | None = None, after: str | None = None) -> Clusters:
        """Return the computes that a job may name: `local`, then the clusters that were made, by name.

        All, or `limit` of those that come after a name.
        """
        first = [Compute(LOCAL, LOCAL)] if after is None else []
        return [*first, *self._services.records.computes.page(limit, None if after == LOCAL else after)][:limit]

    def find(self, name: str) -> Compute:
        """Return a compute by name; raises `NotFound` with near names."""
        return Compute(LOCAL, LOCAL) if name == LOCAL else self._services.records.computes.get(name)

    def faults(self, named: Mapping[str, str]) -> Texts:
        """Return a fault for each compute that doesn't exist; `named` maps who names it to its name."""
        known = {SERVERLESS, *(compute.name for compute in self.list())}
        return [
            f"{who} is '{name}', but no compute has that name. Use local, which is this machine, leave it out, or make one: "
            f"mafunzo compute create {name} --size SIZE"
            for who, name in named.items()
            if name not in known
        ]

    def create(self, compute: Compute) -> Compute:
        """Make a cluster, or change the one of that name, in the name of who acts; its steps run on this machine.

        One of Ray is asked for its nodes first. The token in `RAY_AUTH_TOKEN`, if there is one, is kept beside the database.
        Raises `InvalidParameter` with all faults of its name, tier and counts, `NotFound` for an unknown size, `Unreachable`
        for a cluster that doesn't answer, and `MissingExtra` without Ray.
        """
        self.faults_of(compute).require_none(f"Compute '{compute.name}' can't be made.")
        token = environment_token() if compute.is_ray else ""
        if compute.is_ray:
            nodes_of(compute.name, compute.address, token)
        size = "" if compute.is_ray else self.get(compute.size).name
        stored = self._services.records.computes.put(replace(compute, size=size, created_by=self._services.user))
        keep_token(self._services.home, compute.name, token)
        return stored

    def nodes(self, compute: Compute) -> Nodes:
        """Return the nodes that a Ray cluster has now, by their address; raises `Unreachable`."""
        return nodes_of(compute.name, compute.address, token_of(self._services.home, compute.name))

    def faults_of(self, compute: Compute) -> Faults:
        """Return all faults of a cluster's name, tier and counts."""
        faults = Faults()
        if compute.name == LOCAL or not NAME.fullmatch(compute.name):
            faults.add(
                f"the name is '{compute.name}', expected 2 to 32 letters, digits and '-', a letter first; not {LOCAL}."
            )
        if compute.tier not in TIERS:
            faults.add(f"tier is '{compute.tier}', expected {' or '.join(TIERS)}.")
        if compute.is_ray:
            faults.add(address_fault(compute.address))
            faults.add(
                f"size is '{compute.size}': a Ray cluster's nodes have their own. Leave it out." if compute.size else ""
            )
        if not 0 <= compute.min_instances <= compute.max_instances or compute.max_instances < 1:
            counts = f"{compute.min_instances} and {compute.max_instances}"
            faults.add(
                f"min_instances and max_instances are {counts}, expected 0 or more, and 1 or more and not fewer."
            )
        return faults

    def rescale(self, name: str, scale: Mapping[str, Any]) -> Compute:
        """Change `min_instances`, `max_instances` or `idle_s` of a cluster. Raises as `create`, and `NotFound`."""
        if name == LOCAL:
            raise Conflict(f"{LOCAL} is this machine; it can't be changed.")
        if self.find(name).is_ray:
            raise Conflict(f"Compute '{name}' is a Ray cluster, whose nodes Ray counts. Add or stop nodes there.")
        return self.create(replace(self.find(name), **scale))

    def delete(self, name: str) -> None:
        """Delete a cluster; raises `NotFound`, and `Conflict` for `local`."""
        if name == LOCAL:
            raise Conflict(f"{LOCAL} is this machine; it can't be deleted.")
        self._services.records.computes.delete(name)
        keep_token(self._services.home, name, "")


@functools.cache
def _hardware() -> Hardware:
    return hardware()
