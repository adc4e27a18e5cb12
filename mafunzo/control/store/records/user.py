"""Users in the database, with the hashes of their tokens."""

import builtins
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records.row import first_row, named_row, to_entity, to_row
from mafunzo.entities.user import User
from mafunzo.errors import Conflict


class UserRecords:
    """Every user of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, user: User, token_hash: str) -> User:
        """Add a user and return them with their moment of creation. Raises `Conflict` if the name is taken."""
        user = replace(user, created_at=user.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if first_row(connection, table.user, table.user.c.name == user.name) is not None:
                raise Conflict(
                    f"User {user.name} exists already. For a new token: mafunzo user rotate {user.name}. For another role, "
                    f"delete them first: mafunzo user delete {user.name}"
                )
            row = to_row(table.user, user) | {"token_hash": token_hash}
            connection.execute(sa.insert(table.user).values(row))
        return user

    def get(self, name: str) -> User:
        """Return a user. Raises `NotFound`, with similar names."""
        with self._database.snapshot() as connection:
            return to_entity(User, named_row(connection, table.user, name))

    def find(self, token_hash: str) -> User | None:
        """Return whose token has that hash, or None."""
        with self._database.snapshot() as connection:
            row = first_row(connection, table.user, table.user.c.token_hash == token_hash)
        return None if row is None else to_entity(User, row)

    def list(self) -> builtins.list[User]:
        """Return every user by name."""
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.user).order_by(table.user.c.name)).all()
        return [to_entity(User, row) for row in rows]

    def update(self, user: User, token_hash: str | None = None) -> None:
        """Replace a user's state, and their token's hash unless it is None. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, table.user, user.name)
            row = to_row(table.user, replace(user, created_at=stored.created_at))
            row |= {} if token_hash is None else {"token_hash": token_hash}
            connection.execute(sa.update(table.user).where(table.user.c.id == stored.id).values(row))

    def delete(self, name: str) -> None:
        """Delete a user. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, table.user, name)
            connection.execute(sa.delete(table.user).where(table.user.c.id == stored.id))
