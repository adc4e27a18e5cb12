"""Containers of blobs in the database."""

import builtins

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records.row import first_row, to_entity, to_row
from mafunzo.entities.blob import Container
from mafunzo.errors import Conflict


class ContainerRecords:
    """Every container of blobs that was added to one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, container: Container) -> None:
        """Add a container of blobs. Raises `Conflict` when the name is taken."""
        with self._database.transaction() as connection:
            if first_row(connection, table.container, table.container.c.name == container.name) is not None:
                raise Conflict(f"A container '{container.name}' exists already. Choose another name.")
            connection.execute(sa.insert(table.container).values(to_row(table.container, container)))

    def find(self, name: str) -> Container | None:
        """Return a container, or None."""
        with self._database.snapshot() as connection:
            row = first_row(connection, table.container, table.container.c.name == name)
        return None if row is None else to_entity(Container, row)

    def list(self) -> builtins.list[Container]:
        """Return all containers that were added, by name."""
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.container).order_by(table.container.c.name))
            return [to_entity(Container, row) for row in rows]

    def delete(self, name: str) -> bool:
        """Delete a container and all blobs in it; return whether it was there."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table.blob).where(table.blob.c.container == name))
            result = connection.execute(sa.delete(table.container).where(table.container.c.name == name))
        return bool(result.rowcount)
