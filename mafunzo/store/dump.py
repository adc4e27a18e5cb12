"""A consistent copy of the database in one file, taken while it is used, and the way back from it.

SQLite gives a database file (its online backup); PostgreSQL gives JSON lines, for which no `pg_dump` is needed: the first
line is `{"version": n}`, each other one `{"table": name, "row": {...}}`. Either can be loaded into an empty database of
either kind, so that a home can move from a laptop to a team's server and back.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.errors import Conflict, InvalidFile
from mafunzo.store.database import Database, connect
from mafunzo.store.migrations import MIGRATIONS, migrate, refuse_newer_version, schema_version


def dump(database: Database, folder: Path, stem: str) -> Path:
    """Write the database as it is at one moment into `folder` and return the file, readable by its owner only."""
    if database.is_sqlite:
        target = folder / f"{stem}.db"
        copy_sqlite(Path(str(database.engine.url.database)), target)
    else:
        target = folder / f"{stem}.jsonl"
        _write_lines(database, target)
    return target


def load(file: Path, database: Database) -> None:
    """Fill the empty `database` with what `dump` wrote, and bring its tables up to date.

    Raises `Conflict` when it isn't empty, `NewerHome` when a newer version wrote the dump, and `InvalidFile`.
    """
    refuse_newer_version(_version_of(file, database), str(file))
    _empty(database)
    if file.suffix == ".jsonl":
        _load_lines(file, database)
    elif database.is_sqlite:
        database.close()
        copy_sqlite(file, Path(str(database.engine.url.database)), is_new=False)
    else:
        _load_file(file, database)
    migrate(database)


def copy_sqlite(source: Path, target: Path, is_new: bool = True) -> None:
    """Copy the SQLite database `source`, which may be in use, into `target`, which is empty or, by default, new."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | (os.O_EXCL if is_new else 0), 0o600))
    with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(target)) as writer:
        reader.backup(writer)


def _write_lines(database: Database, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file, database.snapshot() as connection:
        for line in _lines(connection):
            file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(connection: Connection) -> Iterator[dict[str, Any]]:
    tables = _tables(connection)
    yield {"version": connection.execute(sa.select(sa.func.max(tables["migration"].c.number))).scalar_one()}
    for name, table in tables.items():
        for row in connection.execute(sa.select(table)):
            yield {"table": name, "row": {key: _plain(value) for key, value in row._mapping.items()}}


def _version_of(file: Path, database: Database) -> int:
    if file.suffix != ".jsonl":
        with _opened(file, database) as source:
            return schema_version(source)
    with file.open(encoding="utf-8") as lines:
        version = json.loads(next(lines, "{}")).get("version")
    if not isinstance(version, int):
        raise InvalidFile(f"{file} is no dump of a database of Mafunzo's: its first line names no version.")
    return version


def _empty(database: Database) -> None:
    """Drop the tables of a database without a row (of a load that was cut off, say); refuse one that has rows."""
    with database.transaction() as connection:
        tables = _tables(connection)
        for name, table in tables.items():
            if (
                name not in ("migration", "owner")
                and connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()
            ):
                raise Conflict(f"{database} isn't empty: it has rows in '{name}'. Name an empty database.")
        for table in reversed(tables.values()):
            table.drop(connection)


def _load_lines(file: Path, database: Database) -> None:
    migrate(database, MIGRATIONS[: _version_of(file, database)])
    with file.open(encoding="utf-8") as lines, database.transaction() as connection:
        next(lines)
        tables = _tables(connection)
        connection.execute(sa.delete(tables["migration"]))
        connection.execute(sa.delete(tables["owner"]))
        for line in lines:
            entry = json.loads(line)
            table = tables[entry["table"]]
            connection.execute(sa.insert(table).values(_typed(table, entry["row"])))
        _restart_sequences(connection, tables)


def _load_file(file: Path, database: Database) -> None:
    """A dump of SQLite's into PostgreSQL, by way of JSON lines."""
    lines = file.with_suffix(".jsonl")
    try:
        with _opened(file, database) as source:
            _write_lines(source, lines)
        _load_lines(lines, database)
    finally:
        lines.unlink(missing_ok=True)


@contextmanager
def _opened(file: Path, database: Database) -> Iterator[Database]:
    """Open a dump that is a database file."""
    source = connect(database.home, sa.URL.create("sqlite", database=str(file)))
    try:
        yield source
    finally:
        source.close()


def _tables(connection: Connection) -> dict[str, sa.Table]:
    """Return the tables as they are, which may be older than `store.table`; a table comes after those it refers to."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    return {table.name: table for table in metadata.sorted_tables}


def _plain(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()


def _typed(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    moments = {column.name for column in table.c if isinstance(column.type, sa.DateTime)}
    return {key: datetime.fromisoformat(value) if key in moments and value else value for key, value in row.items()}


def _restart_sequences(connection: Connection, tables: dict[str, sa.Table]) -> None:
    """Rows came with their ids: have PostgreSQL go on after the last one."""
    if connection.dialect.name == "sqlite":
        return
    for name, table in tables.items():
        if "id" in table.c:
            last = sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0) + 1).scalar_subquery()
            connection.execute(sa.select(sa.func.setval(sa.func.pg_get_serial_sequence(name, "id"), last, False)))
