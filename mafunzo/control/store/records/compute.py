"""Computes in the database."""

import builtins
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records.row import first_row, named_row, to_entity, to_row
from mafunzo.entities.compute import Compute


class ComputeRecords:
    """Every compute of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, compute: Compute) -> Compute:
        """Add a compute, or replace the one of that name, and return it with who made it first, and when."""
        with self._database.transaction() as connection:
            stored = first_row(connection, table.compute, table.compute.c.name == compute.name)
            if stored is None:
                compute = replace(compute, created_at=compute.created_at or datetime.now(UTC))
            else:
                first = to_entity(Compute, stored)
                compute = replace(compute, created_by=first.created_by, created_at=first.created_at)
            row = to_row(table.compute, compute)
            if stored is None:
                connection.execute(sa.insert(table.compute).values(row))
            else:
                connection.execute(sa.update(table.compute).where(table.compute.c.id == stored.id).values(row))
        return compute

    def get(self, name: str) -> Compute:
        """Return a compute. Raises `NotFound`, with similar names."""
        with self._database.snapshot() as connection:
            return to_entity(Compute, named_row(connection, table.compute, name))

    def list(self) -> builtins.list[Compute]:
        """Return every compute by name."""
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.compute).order_by(table.compute.c.name)).all()
        return [to_entity(Compute, row) for row in rows]

    def delete(self, name: str) -> None:
        """Delete a compute. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, table.compute, name)
            connection.execute(sa.delete(table.compute).where(table.compute.c.id == stored.id))
