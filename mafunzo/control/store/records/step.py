"""Steps of jobs in the database; a job is added with all its steps, and they go with it."""

from typing import Any

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records.row import to_entity, to_row
from mafunzo.entities.job import Step, StepStatus
from mafunzo.errors import NotFound


class StepRecords:
    """Every step of every job of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, job_name: str) -> list[Step]:
        """Return the steps of a job in the order planned; empty for an unknown job."""
        query = sa.select(table.step).filter_by(job=job_name).order_by(table.step.c.position)
        with self._database.snapshot() as connection:
            return [to_entity(Step, row) for row in connection.execute(query)]

    def update(self, step: Step) -> None:
        """Replace a step's state. Raises `NotFound`."""
        is_step = sa.and_(table.step.c.job == step.job, table.step.c.name == step.name)
        with self._database.transaction() as connection:
            if connection.execute(sa.update(table.step).where(is_step).values(step_row(step))).rowcount == 0:
                raise NotFound(f"Job {step.job} has no step '{step.name}'.")

    def find_cached(self, cache_key: str) -> Step | None:
        """Return the step with that key that was done last, whose outputs another may reuse, or None."""
        return self._newest_done_step(table.step.c.cache_key == cache_key)

    def last_like(self, component: str, name: str) -> Step | None:
        """Return the step of that name and component, in whichever version, that was done last, or None."""
        is_like = sa.and_(table.step.c.component_name == _component_name(component), table.step.c.name == name)
        return self._newest_done_step(is_like)

    def _newest_done_step(self, where: sa.ColumnElement[bool]) -> Step | None:
        done = [str(status) for status in StepStatus if status.is_done]
        query = sa.select(table.step).where(where, table.step.c.status.in_(done))
        newest = query.order_by(table.step.c.ended_at.desc().nulls_last(), table.step.c.id.desc()).limit(1)
        with self._database.snapshot() as connection:
            row = connection.execute(newest).first()
        return None if row is None else to_entity(Step, row)


def step_row(step: Step) -> dict[str, Any]:
    """Return the row of a step, but for its position."""
    row = to_row(table.step, step)
    return row | {"name": step.name, "component_name": _component_name(step.spec.component)}


def _component_name(component: str) -> str:
    return component.partition(":")[0]
