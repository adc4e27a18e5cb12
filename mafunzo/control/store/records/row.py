"""How an entity becomes a row and a row an entity: columns for what is looked up, JSON in `body` for the rest.

`NamedRecords` has the verbs of the nouns that are known by a name alone.
"""

import builtins
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store.codec import decode, encode
from mafunzo.control.store.database import Database
from mafunzo.entities.batch import BatchDeployment, BatchEndpoint
from mafunzo.entities.blob import Blob, Container
from mafunzo.entities.compute import Compute
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.job import Job, Step
from mafunzo.entities.scan import Scan
from mafunzo.entities.serving import Serving
from mafunzo.entities.user import User
from mafunzo.errors import Conflict, NotFound, did_you_mean

Row = sa.Row[Any]
Entity = TypeVar(
    "Entity", Job, Step, Endpoint, Deployment, BatchEndpoint, BatchDeployment, Compute, Container, Blob, User, Serving
)
Named = TypeVar("Named", Job, Endpoint, BatchEndpoint, Compute, User)


class NounRecords:
    """Every entity of one noun of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _read(self, kind: type[Entity], query: sa.Select[Any]) -> builtins.list[Entity]:
        """Return the entities of the rows that a query gives, as of one moment."""
        with self._database.snapshot() as connection:
            rows = connection.execute(query).all()
        return [to_entity(kind, row) for row in rows]

    def _scan(self, query: sa.Select[Any], position: sa.ColumnElement[Any], scan: Scan) -> Iterator[Row]:
        """Yield the rows of a query with their `position`, by which they are ordered; pages are read as they are needed.

        Keyset pagination: a row that is added or deleted meanwhile moves no other.
        """
        query = query.add_columns(position.label("position"))
        after = scan.after
        while True:
            order = position.asc() if scan.is_oldest_first else position.desc()
            page = query.order_by(order).limit(scan.size)
            if after is not None:
                page = page.where(position > after if scan.is_oldest_first else position < after)
            with self._database.snapshot() as connection:
                rows = connection.execute(page).all()
            yield from rows
            if len(rows) < scan.size:
                return
            after = rows[-1].position


class NamedRecords(NounRecords, Generic[Named]):
    """Every entity of one noun of one home, each with a name that no other has."""

    _kind: type[Named]
    _table: sa.Table

    def get(self, name: str) -> Named:
        """Return an entity. Raises `NotFound`, with similar names."""
        with self._database.snapshot() as connection:
            return to_entity(self._kind, named_row(connection, self._table, name))

    def find_named(self, name: str) -> Named | None:
        """Return an entity, or None."""
        return next(iter(self._read(self._kind, sa.select(self._table).where(self._table.c.name == name))), None)

    def list(self) -> builtins.list[Named]:
        """Return every entity by name."""
        return self._read(self._kind, sa.select(self._table).order_by(self._table.c.name))

    def page(self, limit: int | None = None, after: str | None = None) -> builtins.list[Named]:
        """Return the entities by name: all, or `limit` of those whose names come after a name (pagination, by keyset)."""
        query = sa.select(self._table).order_by(self._table.c.name).limit(limit)
        return self._read(self._kind, query if after is None else query.where(self._table.c.name > after))

    def delete(self, name: str) -> None:
        """Delete an entity, and the rows that are its own. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, self._table, name)
            self._require_deletable(stored)
            connection.execute(sa.delete(self._table).where(self._table.c.id == stored.id))

    def _require_deletable(self, stored: Row) -> None:
        """Raise `Conflict` for an entity that mustn't be deleted now."""

    def _insert(self, connection: Connection, entity: Named, taken: str, **columns: Any) -> Named:
        """Add an entity and return it with its moment of creation; raises `Conflict`, which says `taken`."""
        entity = replace(entity, created_at=entity.created_at or datetime.now(UTC))
        if first_row(connection, self._table, self._table.c.name == entity.name) is not None:
            raise Conflict(taken)
        connection.execute(sa.insert(self._table).values(to_row(self._table, entity) | columns))
        return entity

    def _change(self, name: str, **columns: Any) -> None:
        """Change columns of an entity's row, and nothing else. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, self._table, name)
            connection.execute(sa.update(self._table).where(self._table.c.id == stored.id).values(columns))

    def _replace(self, entity: Named, columns: Callable[[Row], dict[str, Any]]) -> None:
        """Replace an entity's state, with `columns` that follow from what was stored. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, self._table, entity.name)
            row = to_row(self._table, replace(entity, created_at=stored.created_at)) | columns(stored)
            connection.execute(sa.update(self._table).where(self._table.c.id == stored.id).values(row))


def to_row(of: sa.Table, entity: Any) -> dict[str, Any]:
    """Split an entity into the columns that its table has and the JSON `body` of the others."""
    row: dict[str, Any] = {}
    body: dict[str, Any] = {}
    for field in fields(entity):
        value = getattr(entity, field.name)
        if field.name in of.c:
            row[field.name] = value if isinstance(value, datetime) else encode(value)
        else:
            body[field.name] = encode(value)
    return row | {"body": body}


def to_entity(kind: type[Entity], row: Row) -> Entity:
    """Put an entity together from its columns and its body."""
    names = {field.name for field in fields(kind)}
    from_columns = {name: encode(value) for name, value in row._mapping.items() if name in names}
    return decode(kind, row.body | from_columns)


def first_row(connection: Connection, of: sa.Table, where: sa.ColumnElement[bool]) -> Row | None:
    """Return a row of a table that is as `where` says, or None."""
    return connection.execute(sa.select(of).where(where)).first()


def named_row(connection: Connection, of: sa.Table, name: str) -> Row:
    """Return the row of a table that has the name. Raises `NotFound`, with similar names."""
    row = first_row(connection, of, of.c.name == name)
    if row is None:
        names = connection.execute(sa.select(of.c.name)).scalars()
        raise NotFound(f"No {of.name.replace('_', ' ')} '{name}'." + did_you_mean(name, names, 3))
    return row
