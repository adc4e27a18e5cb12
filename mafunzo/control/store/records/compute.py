"""Computes in the database."""

from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.records.row import NamedRecords, first_row, to_entity, to_row
from mafunzo.entities.compute import Compute


class ComputeRecords(NamedRecords[Compute]):
    """Every compute of one home."""

    _kind, _table = Compute, table.compute

    def put(self, compute: Compute) -> Compute:
        """Add a compute, or replace the one of that name, and return it with who made it first, and when."""
        is_named = table.compute.c.name == compute.name
        with self._database.transaction() as connection:
            stored = first_row(connection, table.compute, is_named)
            first = compute if stored is None else to_entity(Compute, stored)
            created_at = first.created_at or datetime.now(UTC)
            compute = replace(compute, created_by=first.created_by, created_at=created_at)
            connection.execute(sa.delete(table.compute).where(is_named))
            connection.execute(sa.insert(table.compute).values(to_row(table.compute, compute)))
        return compute
