"""Migration 5, frozen: from the rows of version 0.1.0, which held Azure ML's bodies, to rows of what the product itself knows.

It translates JSON to JSON, never changes, and imports nothing of the package that may. Below `properties` stood addresses, and
pieces of requests, as Azure ML writes them; since then neutral facts stand there, and what else there is to give back is an
echo that only the way in reads.

| row | before | after |
|---|---|---|
| asset | `properties` of its type | see `asset`; a component's: see `component` |
| blob | | `view_of`, where it shows a file of a job |
| compute | `properties.body` | `echoes.azure` |
| deployment | `properties.azureml_body` | `echoes.azure` |
| deployment | `properties.base_artifact`, `properties.supervision` | `base_artifact`, `supervision` |
| endpoint | `properties.azureml_body` | `echoes.azure` |
| job | `properties.azureml_body` | `echoes.azure`; `description` and `user_properties` from it |
| job | `properties.is_archived` | `is_archived` |
| step | `python -m mafunzo.components.x` | `python -m mafunzo.compute.components.x`, in commands of components that ship |

What a job was asked for isn't derived: its `settings` stay unknown, and whoever needs them reads the echo. A step that waits,
is queued or starts again runs the module where it is now; one that runs has been started already, and is adopted by its
process. The rest of a step, its component's hash of the code and its cache key, stays as it was planned, so that nothing that
the new code writes is ever taken for the old code's.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store.migration_5.asset import asset_body
from mafunzo.control.store.migration_5.row import (
    blob_body,
    compute_body,
    deployment_body,
    endpoint_body,
    job_body,
    paths_of_jobs,
    step_body,
)


def apply(connection: Connection) -> None:
    """Rewrite every row of an entity."""
    jobs = dict(paths_of_jobs(connection))
    translations: dict[str, Callable[[sa.Row[Any]], dict[str, Any]]] = {
        "asset": lambda row: asset_body(row.type, row.name, row.version, row.body),
        "blob": lambda row: blob_body(row.container, row.name, row.body, jobs),
        "compute": lambda row: compute_body(row.body),
        "deployment": lambda row: deployment_body(row.body),
        "endpoint": lambda row: endpoint_body(row.body),
        "job": lambda row: job_body(row.body),
        "step": lambda row: step_body(row.body),
    }
    names = {"asset": ("type", "name", "version"), "blob": ("container", "name")}
    for name, translate in translations.items():
        columns = [sa.column(column, sa.Text) for column in names.get(name, ())]
        table = sa.table(name, sa.column("id"), sa.column("body", sa.JSON), *columns)
        for row in connection.execute(sa.select(table)).all():
            connection.execute(sa.update(table).where(table.c.id == row.id).values(body=translate(row)))
