"""Opening the database of a home: connect to it, bring its tables up to date, and see that it belongs to this home."""

import hashlib

import sqlalchemy as sa

from mafunzo.control.store.database import Database, connect
from mafunzo.control.store.home import SECRET_FILE, Home
from mafunzo.control.store.migrations import migrate
from mafunzo.control.store.table import owner
from mafunzo.errors import Conflict


def open_database(home: Home, url: str | None = None) -> Database:
    """Open the database of `home`, or the one at `url`, and bring its tables up to date.

    Raises `NewerHome` when a newer version wrote it, `Unreachable` when there is no server at `url`, and `Conflict` when
    the database at `url` belongs to another home: one with another secret.
    """
    database = connect(home, url)
    try:
        migrate(database)
        if not database.is_sqlite:
            _claim(database)
    except BaseException:
        database.close()
        raise
    return database


def _claim(database: Database) -> None:
    """Have a database on a server belong to the home that opens it first, as two would start each other's jobs."""
    own = hashlib.sha256(b"mafunzo home" + database.home.secret()).hexdigest()
    with database.transaction() as connection:
        known = connection.execute(sa.select(owner.c.home)).scalar()
        if known is None:
            connection.execute(sa.insert(owner).values(home=own))
    if known not in (None, own):
        raise Conflict(
            f"{database} belongs to another home than {database.home.root}: its {SECRET_FILE} is another one. "
            "Name an empty database, or put the secret of the home that it belongs to back from a backup."
        )
