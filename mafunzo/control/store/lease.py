"""Leases of cores, memory and GPUs: taken atomically, so that this machine is never overcommitted."""

import builtins
from datetime import UTC, datetime
from functools import reduce
from typing import Any, NamedTuple

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.entities.job import Resources


class Lease(NamedTuple):
    """What an owner (a step's attempt, a worker) holds, and since when."""

    owner: str
    resources: Resources
    since: datetime


class Leases:
    """The leases of one home, across its processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, owner: str, resources: Resources, capacity: Resources) -> bool:
        """Take `resources` for `owner` if `capacity` has so much left beside what the others hold; return whether it had.

        An owner that holds a lease already has it replaced, or kept as it was when there isn't enough. GPUs are taken
        one by one: `devices` tells which.
        """
        with self._database.transaction() as connection:
            others = [row for row in connection.execute(sa.select(table.lease)) if row.owner != owner]
            if not resources.fits(reduce(Resources.minus, map(_resources, others), capacity)):
                return False
            held = {device for row in others for device in row.devices}
            free = [device for device in range(capacity.gpus) if device not in held]
            connection.execute(sa.delete(table.lease).where(table.lease.c.owner == owner))
            row = {
                "owner": owner,
                "cpus": resources.cpus,
                "gpus": resources.gpus,
                "memory_mb": resources.memory_mb,
                "processes": resources.processes,
                "devices": free[: resources.gpus],
                "since": datetime.now(UTC),
            }
            connection.execute(sa.insert(table.lease).values(row))
            return True

    def release(self, owner: str) -> None:
        """Give back what `owner` holds, if anything."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table.lease).where(table.lease.c.owner == owner))

    def list(self) -> builtins.list[Lease]:
        """Return every lease, the oldest first."""
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.lease).order_by(table.lease.c.since, table.lease.c.owner)).all()
        return [Lease(row.owner, _resources(row), row.since) for row in rows]

    def devices(self, owner: str) -> tuple[int, ...]:
        """Return the indices of the GPUs that `owner` holds: what its CUDA_VISIBLE_DEVICES should be."""
        with self._database.snapshot() as connection:
            devices = connection.execute(sa.select(table.lease.c.devices).where(table.lease.c.owner == owner)).scalar()
        return tuple(devices or ())


def _resources(row: sa.Row[Any]) -> Resources:
    return Resources(row.cpus, row.gpus, row.memory_mb, row.processes)
