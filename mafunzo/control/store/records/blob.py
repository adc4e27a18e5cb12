"""Containers in the database, and blobs: which artifact a name in a container stands for. `store.blob` has their bytes."""

import builtins
import sys
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records.row import NounRecords, first_row, to_entity, to_row
from mafunzo.entities.blob import UNCONDITIONAL, Blob, Condition, Container
from mafunzo.entities.scan import PAGE
from mafunzo.errors import Conflict, ContainerNotFound


class ContainerRecords(NounRecords):
    """Every container of blobs that was added to one home."""

    def add(self, container: Container) -> None:
        """Add a container of blobs. Raises `Conflict` when the name is taken."""
        with self._database.transaction() as connection:
            if first_row(connection, table.container, table.container.c.name == container.name) is not None:
                raise Conflict(f"A container '{container.name}' exists already. Choose another name.")
            connection.execute(sa.insert(table.container).values(to_row(table.container, container)))

    def find(self, name: str) -> Container | None:
        """Return a container, or None."""
        return next(iter(self._read(Container, sa.select(table.container).filter_by(name=name))), None)

    def list(self) -> builtins.list[Container]:
        """Return all containers that were added, by name."""
        return self._read(Container, sa.select(table.container).order_by(table.container.c.name))

    def page(self, prefix: str, limit: int | None, after: str) -> builtins.list[Container]:
        """Return `limit` containers whose names begin with `prefix` and come after a name (keyset pagination)."""
        name = _letter_by_letter(table.container.c.name, self._database)
        query = sa.select(table.container).where(_begins_with(name, prefix), name > after)
        return self._read(Container, query.order_by(name).limit(limit))

    def delete(self, name: str) -> None:
        """Delete a container and all blobs in it, if it is there."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table.blob).where(table.blob.c.container == name))
            connection.execute(sa.delete(table.container).where(table.container.c.name == name))


class BlobRecords(NounRecords):
    """Every blob of every container of one home."""

    def write(
        self, container: str, name: str, make: Callable[[Blob | None], Blob], condition: Condition = UNCONDITIONAL
    ) -> Blob:
        """Store and return what `make` makes of the blob that has the name so far; what it raises changes nothing.

        Raises `ContainerNotFound`, and as `Condition.check_write`.
        """
        with self._database.transaction() as connection:
            if first_row(connection, table.container, table.container.c.name == container) is None:
                raise ContainerNotFound(f"There is no container '{container}'.")
            there = _blob(connection, container, name)
            blob = make(there)
            condition.check_write(there)
            connection.execute(sa.delete(table.blob).where(_is_blob(container, name)))
            connection.execute(sa.insert(table.blob).values(to_row(table.blob, blob)))
        return blob

    def find(self, container: str, name: str) -> Blob | None:
        """Return a blob, or None."""
        with self._database.snapshot() as connection:
            return _blob(connection, container, name)

    def list(self, container: str, prefix: str = "") -> builtins.list[Blob]:
        """Return the blobs of a container whose names begin with `prefix`, by name."""
        name = _letter_by_letter(table.blob.c.name, self._database)
        query = sa.select(table.blob).where(table.blob.c.container == container, _begins_with(name, prefix))
        return self._read(Blob, query.order_by(name))

    def scan(
        self, container: str, prefix: str = "", after: str = "", delimiter: str = "", size: int = PAGE
    ) -> Iterator[Blob]:
        """Yield the blobs whose names begin with `prefix` and come after a name, by name, `size` read at once as needed.

        Keyset pagination. delimiter: of a virtual folder, which is the names that are equal up to the first one after the
        prefix, the first blob only is sure to be there; the database skips the rest.
        """
        name = _letter_by_letter(table.blob.c.name, self._database)
        query = sa.select(table.blob).where(table.blob.c.container == container, _begins_with(name, prefix))
        begin = name > after
        while True:
            blobs = self._read(Blob, query.where(begin).order_by(name).limit(size))
            yield from blobs
            if len(blobs) < size:
                return
            inside, folder_end, _ = (
                blobs[-1].name.removeprefix(prefix).partition(delimiter) if delimiter else ("", "", "")
            )
            begin = _comes_after(name, f"{prefix}{inside}{folder_end}") if folder_end else name > blobs[-1].name

    def views(self) -> set[str]:
        """Return all that blobs are views of."""
        view_of = table.blob.c.body["view_of"].as_string()
        with self._database.snapshot() as connection:
            return {view for view in connection.execute(sa.select(view_of).distinct()).scalars() if view}

    def delete(self, container: str, name: str, condition: Condition = UNCONDITIONAL) -> bool:
        """Delete a blob; return whether it was there. Raises `PreconditionFailed` when `condition` doesn't hold."""
        with self._database.transaction() as connection:
            stored = _blob(connection, container, name)
            if stored is not None:
                condition.check_write(stored)
                connection.execute(sa.delete(table.blob).where(_is_blob(container, name)))
        return stored is not None

    def delete_views(self, view_of: str) -> builtins.list[Blob]:
        """Delete all blobs that are views of something, and return them."""
        is_view = table.blob.c.body["view_of"].as_string() == view_of
        with self._database.transaction() as connection:
            blobs = [to_entity(Blob, row) for row in connection.execute(sa.select(table.blob).where(is_view))]
            connection.execute(sa.delete(table.blob).where(is_view))
        return blobs


def _letter_by_letter(column: sa.Column[str], database: Database) -> sa.ColumnElement[str]:
    """Return a column as it is ordered by the code points of its letters, whatever order the database's language has."""
    return column if database.is_sqlite else sa.collate(column, "C")


def _begins_with(name: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    """Return the condition for names that begin with these very letters, which an index finds (LIKE takes A for a)."""
    return sa.and_(name >= prefix, ~_comes_after(name, prefix)) if prefix else sa.true()


def _comes_after(name: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    """Return the condition for names that come after all that begin with `prefix`."""
    stem = prefix.rstrip(chr(sys.maxunicode))
    if not stem:
        return sa.false()
    last = ord(stem[-1])
    following = 0xE000 if last == 0xD7FF else last + 1  # no text has the surrogates between them
    return name >= stem[:-1] + chr(following)


def _blob(connection: Connection, container: str, name: str) -> Blob | None:
    row = first_row(connection, table.blob, _is_blob(container, name))
    return None if row is None else to_entity(Blob, row)


def _is_blob(container: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.blob.c.container == container, table.blob.c.name == name)
