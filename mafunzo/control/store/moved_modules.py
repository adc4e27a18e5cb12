"""The commands of steps that were stored before their modules moved: `mafunzo.components.x` to `mafunzo.compute.components.x`.

Part of migration 5, and frozen with it. Only commands of components that ship are rewritten: what a user wrote stays. A step
that waits, is queued or starts again then runs the module where it is now; one that runs has been started already, and is
adopted by its process. The rest of a step, its component's hash of the code and its cache key, stays as it was planned, so that
nothing that the new code writes is ever taken for the old code's.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

OLD, NEW = "python -m mafunzo.components.", "python -m mafunzo.compute.components."


def apply(connection: Connection) -> None:
    """Rewrite the command of every step."""
    step = sa.table("step", sa.column("id", sa.BigInteger), sa.column("body", sa.JSON))
    for row in connection.execute(sa.select(step)).all():
        body = with_moved_module(row.body)
        if body != row.body:
            connection.execute(sa.update(step).where(step.c.id == row.id).values(body=body))


def with_moved_module(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the new body of a step's row."""
    spec = body.get("spec") or {}
    if not spec.get("is_trusted"):
        return dict(body)
    return {**body, "spec": {**spec, "command": spec["command"].replace(OLD, NEW)}}
