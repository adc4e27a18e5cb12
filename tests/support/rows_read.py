"""How many rows a piece of work reads from SQLite, by table."""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import Pool

_TABLE = re.compile(r"\bFROM \(?(?:SELECT .*? FROM )?\"?(\w+)", re.DOTALL)


@contextmanager
def rows_read() -> Iterator[Counter[str]]:
    """Count the rows that every database of this process gives meanwhile, by the first table of their statement."""
    rows: Counter[str] = Counter()
    last: dict[int, str] = {}

    def remember(_connection: object, cursor: sqlite3.Cursor, statement: str, *_: object) -> None:
        match = _TABLE.search(statement)
        last[id(cursor.connection)] = match[1] if match else ""

    def count(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
        rows[last.get(id(cursor.connection), "")] += 1
        return row

    def watch(connection: sqlite3.Connection, *_: object) -> None:
        connection.row_factory = count

    event.listen(Pool, "checkout", watch)
    event.listen(sa.Engine, "before_cursor_execute", remember)
    try:
        yield rows
    finally:
        event.remove(Pool, "checkout", watch)
        event.remove(sa.Engine, "before_cursor_execute", remember)
