"""Online backup of the database to one file, consistent while it is in use; `store.loading` restores it.

SQLite gives a database file (its online backup); PostgreSQL gives JSON lines, for which no `pg_dump` is needed: the first
line is `{"version": n}`, each other one `{"table": name, "row": {...}}`. Either can be loaded into an empty database of
either kind, so that a home can move from a laptop to a team's server and back.
"""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store.database import Database
from mafunzo.control.store.disk import new_file


def dump(database: Database, folder: Path, stem: str) -> Path:
    """Write the database as it is at one moment into `folder` and return the file, readable by its owner only."""
    if database.is_sqlite:
        target = folder / f"{stem}.db"
        copy_sqlite(Path(str(database.engine.url.database)), target)
    else:
        target = folder / f"{stem}.jsonl"
        write_lines(database, target)
    return target


def copy_sqlite(source: Path, target: Path, is_new: bool = True) -> None:
    """Copy the SQLite database `source`, which may be in use, into `target`, which is empty or, by default, new."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | (os.O_EXCL if is_new else 0), 0o600))
    with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(target)) as writer:
        try:
            reader.backup(writer)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_FULL":
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error


def write_lines(database: Database, target: Path) -> None:
    """Write the database as JSON lines into `target`, a new file; on the disk when this returns."""
    with new_file(target) as file, database.snapshot() as connection:
        for line in _lines(connection):
            file.write(f"{json.dumps(line)}\n".encode())


def _lines(connection: Connection) -> Iterator[dict[str, Any]]:
    tables = tables_of(connection)
    yield {"version": connection.execute(sa.select(sa.func.max(tables["migration"].c.number))).scalar_one()}
    for name, table in tables.items():
        for row in connection.execute(sa.select(table)):
            yield {"table": name, "row": {key: _plain(value) for key, value in row._mapping.items()}}


def tables_of(connection: Connection) -> dict[str, sa.Table]:
    """Return the tables as they are, which may be older than `store.table`; a table comes after those it refers to."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    return {table.name: table for table in metadata.sorted_tables}


def _plain(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
