"""Endpoints in the database, with their keys, which rest encrypted."""

import builtins
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records.row import first_row, named_row, to_entity, to_row
from mafunzo.control.store.secret import seal, unseal
from mafunzo.entities.endpoint import Endpoint
from mafunzo.errors import Conflict


class EndpointRecords:
    """Every endpoint of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, endpoint: Endpoint, keys: tuple[str, str]) -> Endpoint:
        """Add an endpoint with its (primary, secondary) key and return it with its moment of creation.

        Raises `Conflict` if it exists.
        """
        endpoint = replace(endpoint, created_at=endpoint.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if first_row(connection, table.endpoint, table.endpoint.c.name == endpoint.name) is not None:
                raise Conflict(f"Endpoint {endpoint.name} exists already. Choose another name, or delete it first.")
            row = to_row(table.endpoint, endpoint) | self._key_row(keys)
            connection.execute(sa.insert(table.endpoint).values(row))
        return endpoint

    def get(self, name: str) -> Endpoint:
        """Return an endpoint. Raises `NotFound`, with similar names."""
        with self._database.snapshot() as connection:
            return to_entity(Endpoint, named_row(connection, table.endpoint, name))

    def list(self) -> builtins.list[Endpoint]:
        """Return every endpoint by name."""
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.endpoint).order_by(table.endpoint.c.name)).all()
        return [to_entity(Endpoint, row) for row in rows]

    def update(self, endpoint: Endpoint) -> None:
        """Replace an endpoint's state, not its keys. That it is being deleted stays. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, table.endpoint, endpoint.name)
            row = to_row(table.endpoint, replace(endpoint, created_at=stored.created_at))
            row["is_deleting"] = endpoint.is_deleting or stored.is_deleting
            connection.execute(sa.update(table.endpoint).where(table.endpoint.c.id == stored.id).values(row))

    def delete(self, name: str) -> None:
        """Delete an endpoint, its keys and the records of its deployments. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, table.endpoint, name)
            connection.execute(sa.delete(table.endpoint).where(table.endpoint.c.id == stored.id))

    def keys(self, name: str) -> tuple[str, str]:
        """Return the (primary, secondary) key of an endpoint. Raises `NotFound`."""
        with self._database.snapshot() as connection:
            row = named_row(connection, table.endpoint, name)
        home = self._database.home
        return unseal(home, row.primary_key), unseal(home, row.secondary_key)

    def set_keys(self, name: str, keys: tuple[str, str]) -> None:
        """Replace the (primary, secondary) key of an endpoint. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, table.endpoint, name)
            by_id = table.endpoint.c.id == stored.id
            connection.execute(sa.update(table.endpoint).where(by_id).values(self._key_row(keys)))

    def _key_row(self, keys: tuple[str, str]) -> dict[str, str]:
        home = self._database.home
        return {"primary_key": seal(home, keys[0]), "secondary_key": seal(home, keys[1])}
