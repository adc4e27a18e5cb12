"""Restoring a dump (`store.dump`) into an empty database, of the same kind or of the other."""

import json
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store.database import Database
from mafunzo.control.store.dump import copy_sqlite, tables_of, write_lines
from mafunzo.control.store.migrations import MIGRATIONS, migrate, refuse_newer_version, schema_version
from mafunzo.errors import Conflict, InvalidFile


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
        tables = tables_of(connection)
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
        tables = tables_of(connection)
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
            write_lines(source, lines)
        _load_lines(lines, database)
    finally:
        lines.unlink(missing_ok=True)


def _opened(file: Path, database: Database) -> "closing[Database]":
    """Open a dump that is a database file."""
    return closing(Database(database.home, sa.URL.create("sqlite", database=str(file))))


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
