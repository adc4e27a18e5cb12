"""Users in the database, with the hashes of their tokens."""

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.records.row import NamedRecords
from mafunzo.entities.user import User


class UserRecords(NamedRecords[User]):
    """Every user of one home."""

    _kind, _table = User, table.user

    def add(self, user: User, token_hash: str) -> User:
        """Add a user and return them with their moment of creation. Raises `Conflict` if the name is taken."""
        taken = (
            f"User {user.name} exists already. For a new token: mafunzo user rotate {user.name}. For another role, "
            f"delete them first: mafunzo user delete {user.name}"
        )
        with self._database.transaction() as connection:
            return self._insert(connection, user, taken, token_hash=token_hash)

    def find(self, token_hash: str) -> User | None:
        """Return whose token has that hash, or None."""
        return next(iter(self._read(User, sa.select(table.user).filter_by(token_hash=token_hash))), None)

    def update(self, user: User, token_hash: str | None = None) -> None:
        """Replace a user's state, and their token's hash unless it is None. Raises `NotFound`."""
        self._replace(user, lambda _: {} if token_hash is None else {"token_hash": token_hash})
