"""Leases of cores, memory and GPUs: taken atomically, so that this machine is never overcommitted."""

import builtins
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.entities.compute import Hardware
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

    def take(self, owner: str, resources: Resources, capacity: Resources | Hardware) -> bool:
        """Take `resources` for `owner` if `capacity` has so much left beside what the others hold; return whether it had.

        An owner that holds a lease already has it replaced, or kept as it was when there isn't enough. GPUs are taken
        one by one: `devices` tells which.
        """
        with self._database.transaction() as connection:
            others = [lease for lease in connection.execute(sa.select(table.lease)) if lease.owner != owner]
            if not _fits(resources, _left(capacity, others)):
                return False
            connection.execute(sa.delete(table.lease).where(table.lease.c.owner == owner))
            _insert(connection, owner, resources, _free_devices(capacity, others)[: resources.gpus])
            return True

    def release(self, owner: str) -> None:
        """Give back what `owner` holds, if anything."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table.lease).where(table.lease.c.owner == owner))

    def list(self) -> builtins.list[Lease]:
        """Return every lease, the oldest first."""
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.lease).order_by(table.lease.c.since, table.lease.c.owner)).all()
        return [
            Lease(row.owner, Resources(row.cpus, row.gpus, row.memory_mb, row.processes), row.since) for row in rows
        ]

    def devices(self, owner: str) -> tuple[int, ...]:
        """Return the indices of the GPUs that `owner` holds: what its CUDA_VISIBLE_DEVICES should be."""
        with self._database.snapshot() as connection:
            devices = connection.execute(sa.select(table.lease.c.devices).where(table.lease.c.owner == owner)).scalar()
        return tuple(devices or ())


def _fits(resources: Resources, left: Resources) -> bool:
    return resources.cpus <= left.cpus and resources.gpus <= left.gpus and resources.memory_mb <= left.memory_mb


def _left(capacity: Resources | Hardware, others: list[sa.Row[tuple[object, ...]]]) -> Resources:
    return Resources(
        cpus=capacity.cpus - sum(lease.cpus for lease in others),
        gpus=_gpu_count(capacity) - sum(lease.gpus for lease in others),
        memory_mb=capacity.memory_mb - sum(lease.memory_mb for lease in others),
    )


def _gpu_count(capacity: Resources | Hardware) -> int:
    return len(capacity.gpus) if isinstance(capacity, Hardware) else capacity.gpus


def _free_devices(capacity: Resources | Hardware, others: list[sa.Row[tuple[object, ...]]]) -> list[int]:
    held = {device for lease in others for device in lease.devices}
    return [device for device in range(_gpu_count(capacity)) if device not in held]


def _insert(connection: Connection, owner: str, resources: Resources, devices: list[int]) -> None:
    row = {
        "owner": owner,
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "memory_mb": resources.memory_mb,
        "processes": resources.processes,
        "devices": devices,
        "since": datetime.now(UTC),
    }
    connection.execute(sa.insert(table.lease).values(row))
