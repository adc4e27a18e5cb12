"""How an entity becomes a row and a row an entity: columns for what is looked up, JSON in `body` for the rest."""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store.codec import decode, encode
from mafunzo.entities.blob import Blob, Container
from mafunzo.entities.compute import Compute
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.job import Job, Step
from mafunzo.entities.user import User
from mafunzo.errors import NotFound

Row = sa.Row[Any]
Entity = TypeVar("Entity", Job, Step, Endpoint, Deployment, Compute, Container, Blob, User)


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
        raise NotFound(f"No {of.name} '{name}'." + suggestion(name, names))
    return row


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the end of the message that there is no `name`: those of `names` that look like it, if any."""
    close = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""
