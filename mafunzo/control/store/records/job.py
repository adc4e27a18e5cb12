"""Jobs in the database, and their steps, which are added and go with them. A request to cancel is never lost."""

import builtins
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.records.row import NamedRecords, NounRecords, Row, to_entity, to_row
from mafunzo.entities.job import Job, JobStatus, Step, StepStatus
from mafunzo.entities.scan import Scan
from mafunzo.errors import Conflict, NotFound


class JobRecords(NamedRecords[Job]):
    """Every job of one home. One that is queued or runs can't be deleted."""

    _kind, _table = Job, table.job

    def add(self, job: Job, steps: Sequence[Step]) -> Job:
        """Add a job with all its steps, in the order planned, and return it with its moment of creation.

        Raises `Conflict` if a job of that name exists.
        """
        with self._database.transaction() as connection:
            job = self._insert(connection, job, f"Job {job.name} exists already. Choose another name.")
            rows = [_step_row(step) | {"position": position} for position, step in enumerate(steps)]
            if rows:
                connection.execute(sa.insert(table.step), rows)
        return job

    def list(
        self,
        statuses: Iterable[JobStatus] | None = None,
        limit: int | None = None,
        before: str | None = None,
        display_names: Iterable[str] | None = None,
    ) -> builtins.list[Job]:
        """Return the jobs that are in one of `statuses`, by default all, the newest first.

        limit: how many at most (pagination); before: the name of a job, of which only older ones are returned (keyset);
        display_names: only those that are called so. Raises `NotFound` where there is no such job.
        """
        query = sa.select(table.job)
        if display_names is not None:
            query = query.where(table.job.c.body["display_name"].as_string().in_(builtins.list(display_names)))
        if statuses is not None:
            query = query.where(table.job.c.status.in_([str(status) for status in statuses]))
        if before is not None:
            self.get(before)
            query = query.where(
                table.job.c.id < sa.select(table.job.c.id).where(table.job.c.name == before).scalar_subquery()
            )
        return self._read(Job, query.order_by(table.job.c.id.desc()).limit(limit))

    def names(self) -> set[str]:
        """Return the names of all jobs."""
        with self._database.snapshot() as connection:
            return set(connection.execute(sa.select(table.job.c.name)).scalars())

    def scan(self, scan: Scan, is_archived: bool | None = None) -> Iterator[tuple[int, Job]]:
        """Yield the jobs with their positions, read as they are needed. is_archived: only those that are, or aren't, hidden."""
        query = sa.select(table.job)
        if is_archived is not None:
            hidden = sa.func.coalesce(table.job.c.body["is_archived"].as_boolean(), sa.false())
            query = query.where(hidden if is_archived else ~hidden)
        return ((row.position, to_entity(Job, row)) for row in self._scan(query, table.job.c.id, scan))

    def newest_with(self, component: str, name: str, value: str) -> Job | None:
        """Return the newest completed job that has a step of a component, and a property of that value, or None."""
        has_step = sa.select(table.step.c.job).where(table.step.c.component_name == component)
        query = sa.select(table.job).where(
            table.job.c.name.in_(has_step),
            table.job.c.status == str(JobStatus.COMPLETED),
            table.job.c.body["properties"][name].as_string() == value,
        )
        return next(iter(self._read(Job, query.order_by(table.job.c.id.desc()).limit(1))), None)

    def queue(self) -> builtins.list[Job]:
        """Return the jobs that haven't ended (queued or running) in order of priority, then age: the oldest first."""
        open_statuses = [str(status) for status in JobStatus if not status.is_terminal]
        query = sa.select(table.job).where(table.job.c.status.in_(open_statuses))
        return self._read(Job, query.order_by(table.job.c.priority.desc(), table.job.c.id))

    def update(self, job: Job) -> None:
        """Replace a job's state. A request to cancel stays, even if `job` was read before it came. Raises `NotFound`."""
        self._replace(
            job, lambda stored: {"is_cancel_requested": job.is_cancel_requested or stored.is_cancel_requested}
        )

    def request_cancel(self, name: str) -> None:
        """Ask for a job to end, whatever the scheduler writes at the same moment. Raises `NotFound`."""
        self._change(name, is_cancel_requested=True)

    def _require_deletable(self, stored: Row) -> None:
        if not JobStatus(stored.status).is_terminal:
            raise Conflict(f"Job {stored.name} is {stored.status}. Cancel it first.")


class StepRecords(NounRecords):
    """Every step of every job of one home."""

    def of(self, job_name: str) -> list[Step]:
        """Return the steps of a job in the order planned; empty for an unknown job."""
        return self._read(Step, sa.select(table.step).filter_by(job=job_name).order_by(table.step.c.position))

    def of_each(self, job_names: Iterable[str]) -> dict[str, list[Step]]:
        """Return the steps of some jobs in the order planned, by job."""
        steps: dict[str, list[Step]] = {name: [] for name in job_names}
        query = sa.select(table.step).where(table.step.c.job.in_(steps)).order_by(table.step.c.position)
        for step in self._read(Step, query):
            steps[step.job].append(step)
        return steps

    def of_open_jobs(self) -> list[Step]:
        """Return all steps of the jobs that haven't ended, of the oldest job first."""
        query = sa.select(table.step).where(table.step.c.job.in_(_open_jobs()))
        return self._read(Step, query.order_by(table.step.c.id))

    def running(self) -> list[Step]:
        """Return the steps that run, of the oldest job first; of jobs that have ended nothing is read."""
        is_running = sa.and_(table.step.c.status == str(StepStatus.RUNNING), table.step.c.job.in_(_open_jobs()))
        return self._read(Step, sa.select(table.step).where(is_running).order_by(table.step.c.id))

    def update(self, step: Step) -> None:
        """Replace a step's state. Raises `NotFound`."""
        is_step = sa.and_(table.step.c.job == step.job, table.step.c.name == step.name)
        with self._database.transaction() as connection:
            if connection.execute(sa.update(table.step).where(is_step).values(_step_row(step))).rowcount == 0:
                raise NotFound(f"Job {step.job} has no step '{step.name}'.")

    def find_cached(self, cache_key: str) -> Step | None:
        """Return the step with that key that was done last, whose outputs another may reuse, or None."""
        return self._newest_done_step(table.step.c.cache_key == cache_key)

    def last_like(self, component: str, name: str) -> Step | None:
        """Return the step of that name and component, in whichever version, that was done last, or None."""
        is_like = sa.and_(table.step.c.component_name == _component_name(component), table.step.c.name == name)
        return self._newest_done_step(is_like)

    def last_with(self, component: str, name: str, value: str, part: str = "value") -> Step | None:
        """Return the step of a component that was done last with that value of an input, or None.

        part: of the input, `value` of a literal or `name` of a file or folder.
        """
        given = table.step.c.body["spec"]["inputs"][name][part].as_string()
        return self._newest_done_step(sa.and_(table.step.c.component_name == component, given == value))

    def _newest_done_step(self, where: sa.ColumnElement[bool]) -> Step | None:
        done = [str(status) for status in StepStatus if status.is_done]
        query = sa.select(table.step).where(where, table.step.c.status.in_(done))
        newest = query.order_by(table.step.c.ended_at.desc().nulls_last(), table.step.c.id.desc()).limit(1)
        return next(iter(self._read(Step, newest)), None)


def _open_jobs() -> sa.Select[tuple[str]]:
    open_statuses = [str(status) for status in JobStatus if not status.is_terminal]
    return sa.select(table.job.c.name).where(table.job.c.status.in_(open_statuses))


def _step_row(step: Step) -> dict[str, Any]:
    """Return the row of a step, but for its position."""
    row = to_row(table.step, step)
    return row | {"name": step.name, "component_name": _component_name(step.spec.component)}


def _component_name(component: str) -> str:
    return component.partition(":")[0]
