"""Jobs in the database: each verb is one transaction, and a request to cancel is never lost."""

import builtins
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records.row import first_row, named_row, to_entity, to_row
from mafunzo.control.store.records.step import step_row
from mafunzo.entities.job import Job, JobStatus, Step
from mafunzo.errors import Conflict


class JobRecords:
    """Every job of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job: Job, steps: Sequence[Step]) -> Job:
        """Add a job with all its steps, in the order planned, and return it with its moment of creation.

        Raises `Conflict` if a job of that name exists.
        """
        job = replace(job, created_at=job.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if first_row(connection, table.job, table.job.c.name == job.name) is not None:
                raise Conflict(f"Job {job.name} exists already. Choose another name.")
            connection.execute(sa.insert(table.job).values(to_row(table.job, job)))
            rows = [step_row(step) | {"position": position} for position, step in enumerate(steps)]
            if rows:
                connection.execute(sa.insert(table.step), rows)
        return job

    def get(self, name: str) -> Job:
        """Return a job. Raises `NotFound`, with similar names."""
        with self._database.snapshot() as connection:
            return to_entity(Job, named_row(connection, table.job, name))

    def list(self, statuses: Iterable[JobStatus] | None = None, newest_first: bool = True) -> builtins.list[Job]:
        """Return the jobs that are in one of `statuses`, by default all, in order of age."""
        query = sa.select(table.job)
        if statuses is not None:
            query = query.where(table.job.c.status.in_([str(status) for status in statuses]))
        order = table.job.c.id.desc() if newest_first else table.job.c.id
        with self._database.snapshot() as connection:
            return [to_entity(Job, row) for row in connection.execute(query.order_by(order))]

    def queue(self) -> builtins.list[Job]:
        """Return the jobs that haven't ended (queued or running) in order of priority, then age: the oldest first."""
        open_statuses = [str(status) for status in JobStatus if not status.is_terminal]
        query = sa.select(table.job).where(table.job.c.status.in_(open_statuses))
        with self._database.snapshot() as connection:
            rows = connection.execute(query.order_by(table.job.c.priority.desc(), table.job.c.id)).all()
        return [to_entity(Job, row) for row in rows]

    def update(self, job: Job) -> None:
        """Replace a job's state. A request to cancel stays, even if `job` was read before it came. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, table.job, job.name)
            row = to_row(table.job, replace(job, created_at=stored.created_at))
            row["is_cancel_requested"] = job.is_cancel_requested or stored.is_cancel_requested
            connection.execute(sa.update(table.job).where(table.job.c.id == stored.id).values(row))

    def request_cancel(self, name: str) -> None:
        """Ask for a job to end, whatever the scheduler writes at the same moment. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = named_row(connection, table.job, name)
            connection.execute(sa.update(table.job).where(table.job.c.id == stored.id).values(is_cancel_requested=True))

    def delete(self, name: str) -> None:
        """Delete a job that has ended, and its steps. Raises `NotFound`, and `Conflict` while it is queued or runs."""
        with self._database.transaction() as connection:
            stored = named_row(connection, table.job, name)
            if not JobStatus(stored.status).is_terminal:
                raise Conflict(f"Job {name} is {stored.status}. Cancel it first.")
            connection.execute(sa.delete(table.job).where(table.job.c.id == stored.id))
