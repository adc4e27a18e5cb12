"""The statements that a piece of work sends to a database."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import event


@contextmanager
def statements_sent() -> Iterator[list[str]]:
    """Give the statements that every database of this process is sent meanwhile; what opens a transaction isn't one."""
    statements: list[str] = []

    def remember(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", remember)
    try:
        yield statements
    finally:
        event.remove(sa.Engine, "before_cursor_execute", remember)
