"""MLflow as a child process, started when it is first asked for, and the facts about jobs that it reads beside their metrics.

The child listens on a port of its own for a token of its own.
"""

import json
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Set
from itertools import islice, takewhile

from mafunzo.control.workspace import Home
from mafunzo.control.workspace.jobs import Jobs
from mafunzo.entities.job import ArtifactInput, Job, Step
from mafunzo.entities.scan import Scan
from mafunzo.entrypoints.mlflow.cursor import Cursor, cursor_of
from mafunzo.entrypoints.mlflow.job_facts import JobFacts, StepFacts, is_written, write_job_facts
from mafunzo.errors import MafunzoError, NotFound, ServerFailed
from mafunzo.tracking.atomic_json import write_json, write_text
from mafunzo.tracking.step_folder import STEP_FOLDER

logger = logging.getLogger(__name__)

START_LIMIT_S = 180.0
END_LIMIT_S = 10.0
EVERY_S = 1.0
PAGE = 200
CURSOR_FILE = "cursor.json"


class MlflowView:
    """The child process, and the facts about jobs. `artifacts` has the files that runs have logged."""

    def __init__(self, home: Home, jobs: Jobs) -> None:
        self._home = home
        self._jobs = jobs
        self._folder = home.root / "mlflow"
        self.artifacts = self._folder / "artifacts"
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""
        self._token = ""
        self._writing = threading.Lock()
        self._cursor: Cursor | None = None

    def address(self) -> tuple[str, str]:
        """Return the child's address and token; starts it if it doesn't run. Raises `ServerFailed`."""
        with self._starting:
            if self._process is None or self._process.poll() is not None:
                self._start()
            return self._address, self._token

    def run(self, stop: threading.Event) -> None:
        """Keep the facts up to date while the child runs, and end it at the end."""
        try:
            while not stop.wait(EVERY_S):
                if self._process is not None:
                    self.write_facts()
        finally:
            self._end()

    def write_facts(self) -> None:
        """Write `job.json` for every job that is new or hasn't ended; one that has ended is written once."""
        self.write_new_facts()
        while self._write_older_facts():
            pass

    def write_new_facts(self) -> None:
        """Write the facts of jobs that may have changed since the last look: new ones, and those that hadn't ended then.

        The very first look sees the newest page of them only.
        """
        with self._writing:
            cursor = self._cursor or self._read_cursor()
            if not cursor.recent:
                page = self._page(None)
                new, cursor = [job for _, job in page], cursor.back(page, PAGE)
            else:
                new = self._newer_than(cursor)
            seen = {job.name for job in new}
            again = self._again(cursor.open - seen)
            self._write([*new, *again])
            self._keep(cursor.forward(new, again))

    def _write_older_facts(self) -> bool:
        """Write the facts of the next page of jobs that were never looked at; return whether there may be more."""
        with self._writing:
            cursor = self._cursor
            if cursor is None or cursor.is_whole:
                return False
            page = self._page(cursor.older)
            self._write([job for _, job in page])
            self._keep(cursor.back(page, PAGE))
            return True

    def _page(self, after: int | None) -> list[tuple[int, Job]]:
        return list(islice(self._jobs.scan(Scan(after=after, size=PAGE)), PAGE))

    def _newer_than(self, cursor: Cursor) -> list[Job]:
        """Return the jobs that were added since the last look, the newest first."""
        newest = self._jobs.list(limit=1)
        if not newest or newest[0].name in cursor.recent:  # as most often
            return []
        jobs = (job for _, job in self._jobs.scan(Scan(size=PAGE)))
        return list(takewhile(lambda job: job.name not in cursor.recent, jobs))

    def _again(self, names: Set[str]) -> list[Job]:
        """Return the jobs of these names as they are now, but for those that were deleted; most of them are still open."""
        unfinished = {job.name: job for job in self._jobs.queue()} if names else {}
        jobs = (unfinished.get(name) or self._find(name) for name in names)
        return [job for job in jobs if job is not None]

    def _write(self, jobs: Iterable[Job]) -> None:
        unwritten = [
            job
            for job in jobs
            if not (job.status.is_terminal and is_written(self._home.jobs, job.name, str(job.status)))
        ]
        steps = self._jobs.steps_of([job.name for job in unwritten]) if unwritten else {}
        for job in unwritten:
            try:
                write_job_facts(self._home.jobs, job_facts(job, steps[job.name]))
            except (MafunzoError, OSError, ValueError, TypeError) as error:  # the others are shown all the same
                logger.warning("Job %s isn't shown in MLflow: %s", job.name, error)

    def _read_cursor(self) -> Cursor:
        """Return how far the server before has come."""
        try:
            return cursor_of(json.loads((self._folder / CURSOR_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, LookupError):  # none yet, or of another version
            return Cursor()

    def _keep(self, cursor: Cursor) -> None:
        """Remember how far it has come, for the next server too."""
        if cursor != self._cursor and self._folder.exists():
            write_json(self._folder / CURSOR_FILE, cursor.body())
        self._cursor = cursor

    def _find(self, name: str) -> Job | None:
        try:
            return self._jobs.get(name).job
        except NotFound:  # it was deleted
            return None

    def _start(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.write_new_facts()
        port_file, token_file = self._folder / "port", self._folder / "token"
        port_file.unlink(missing_ok=True)
        self._token = secrets.token_urlsafe(32)
        write_text(token_file, self._token, mode=0o600)
        argv = [
            sys.executable,
            "-m",
            "mafunzo.entrypoints.mlflow",
            "--home",
            str(self._home.root),
            "--port-file",
            str(port_file),
            "--token-file",
            str(token_file),
            "--parent",
            str(os.getpid()),
        ]
        with (self._home.logs / "mlflow.log").open("ab") as log:
            environment = {**os.environ, STEP_FOLDER: str(self._folder)}
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise ServerFailed(f"MLflow didn't start. {self._home.logs / 'mlflow.log'} says why.")
            time.sleep(0.05)
        self._address = f"http://127.0.0.1:{port_file.read_text(encoding='utf-8')}"
        logger.info("Started MLflow, process %s, at %s", self._process.pid, self._address)

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def job_facts(job: Job, steps: list[Step]) -> JobFacts:
    """Return what MLflow shows of a job."""
    return JobFacts(
        name=job.name,
        experiment=job.experiment,
        display_name=job.display_name,
        status=str(job.status),
        created_by=job.created_by,
        started_at=job.started_at.timestamp() if job.started_at else None,
        ended_at=job.ended_at.timestamp() if job.ended_at else None,
        parameters={name: _shown(value) for name, value in job.inputs.items()},
        tags={"mafunzo.component": job.component, **job.tags},
        steps=tuple(_step_facts(step) for step in steps),
    )


def _step_facts(step: Step) -> StepFacts:
    inputs = step.spec.inputs.items()
    files = {name: value.name or value.artifact for name, value in inputs if isinstance(value, ArtifactInput)}
    return StepFacts(
        name=step.name,
        status=str(step.status),
        attempt=step.attempt,
        started_at=step.started_at.timestamp() if step.started_at else None,
        ended_at=step.ended_at.timestamp() if step.ended_at else None,
        parameters={**step.spec.literals, **files},
        is_users=not step.spec.is_trusted,
    )


def _shown(value: object) -> object:
    """Return what is shown of a job's input: of an artifact its name."""
    return (value.get("name") or value.get("artifact")) if isinstance(value, Mapping) else value
