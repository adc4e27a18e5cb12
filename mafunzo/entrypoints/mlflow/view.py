"""Shows jobs in MLflow: a job is a run of its experiment, each attempt of a step a nested run.

Ingestion is incremental and idempotent: missing runs are rebuilt from the jobs' folders, and no metric counts twice. A job
that has ended and is ingested whole is settled: its run says so, and it isn't looked at again, by later processes neither.
"""

import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Experiment, ExperimentTag, Metric, Param, RunStatus, RunTag

from mafunzo.entrypoints.mlflow.job_facts import FILE, JobFacts, StepFacts, read_job_facts
from mafunzo.entrypoints.mlflow.store import JOBS_TAG, KEY_TAG, RunStore
from mafunzo.tracking.metrics import metrics_of, read_metrics
from mafunzo.tracking.run import job_run_id, step_run_id
from mafunzo.tracking.step_folder import StepFolder

BATCH = 900
PARAMETER_LENGTH = 6000
TAG_LENGTH = 5000
# Job or step status to MLflow's run status.
STATUSES = {
    "queued": "SCHEDULED",
    "waiting": "SCHEDULED",
    "running": "RUNNING",
    "completed": "FINISHED",
    "cached": "FINISHED",
    "failed": "FAILED",
    "canceled": "KILLED",
    "skipped": "KILLED",
}
ENDED = ("FINISHED", "FAILED", "KILLED")
OFFSET_TAG = "mafunzo.offset"
SETTLED_TAG = "mafunzo.settled"
"""On the run of a job that has ended and is ingested whole: when its facts were written, in nanoseconds."""
BACKFILL = 10
"""How many jobs that were never looked at are ingested in a tick, the newest first: the others aren't kept waiting."""
STILL_S = 2.0
"""A folder that was changed no longer ago may change again without its time showing it."""


@dataclass
class _Run:
    """A run in MLflow: how many bytes of each `metrics.jsonl` it has ingested, and its last status and tags."""

    id: str
    offsets: dict[str, int] = field(default_factory=dict)
    status: str = ""
    tags: dict[str, str] = field(default_factory=dict)


class View:
    """Ingests jobs. Runs are identified by their key: `job`, or `job/step/attempt`.

    A job of one command of the user's own is one run. Metrics that a user's step logs with MLflow while it runs are also
    appended to its `metrics.jsonl`, the source of truth for the rest of Mafunzo.
    """

    def __init__(self, jobs: Path, artifacts: Path, store: RunStore) -> None:
        """`jobs` has a folder for each job, `artifacts` the files that runs have logged."""
        self._jobs, self._artifacts = jobs, artifacts
        self._store = store
        self._experiments: dict[str, Experiment] = {}
        self._ids: dict[str, dict[str, str]] = {}  # of the runs of each job, by their keys
        for key, run_id in store.tags(KEY_TAG):
            self._ids.setdefault(key.partition("/")[0], {})[key] = run_id
        self._settled = {run_id: facts_time for facts_time, run_id in store.tags(SETTLED_TAG)}
        self._runs: dict[str, _Run] = {}  # of jobs that aren't settled
        self._fingerprints: dict[str, tuple[tuple[str, int, int], ...]] = {}
        self._inodes: dict[str, int] = {}  # of all jobs' folders
        self._unseen: list[str] = []  # jobs that were never looked at, the newest last
        self._unsettled: set[str] = set()
        self._listed_ns = -1
        self._open: dict[str, Path] = {}
        self._lock = threading.Lock()

    def tick(self) -> int:
        """Ingest what is new, and return how many lines of metrics that were."""
        with self._lock:
            self._list_folders()
            for _ in range(min(BACKFILL, len(self._unseen))):
                self._unsettled.add(self._unseen.pop())
            return sum(self._ingest_job(self._jobs / name) for name in sorted(self._unsettled))

    def is_open(self, run_id: str) -> bool:
        """Return whether the run belongs to a running step of the user's own."""
        return run_id in self._open

    def keep(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Append metrics logged into a step's run to its `metrics.jsonl`."""
        folder = self._open.get(run_id)
        if folder is None or not metrics:
            return
        file = StepFolder(folder).metrics
        # MLflow's log_model logs the metrics of its step again, for the model.
        points = set(map(_point, read_metrics(file))) if any(metric.model_id for metric in metrics) else set()
        lines = [line for line in map(_line, metrics) if _point(line) not in points]
        with file.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(line) + "\n" for line in lines))

    def _list_folders(self) -> None:
        """See which jobs are new and which are gone, when there are other folders than at the last look."""
        changed_ns = self._jobs.stat().st_mtime_ns if self._jobs.exists() else 0
        if changed_ns == self._listed_ns:
            return
        is_still = (
            not -STILL_S < time.time() - changed_ns / 1e9 <= STILL_S
        )  # in the future where the clock was put back
        entries = [entry for entry in os.scandir(self._jobs) if entry.is_dir()] if changed_ns else []
        inodes = {entry.name: entry.inode() for entry in entries}
        for name in {*self._inodes, *self._ids}:
            if name not in inodes or inodes[name] != self._inodes.get(name, inodes[name]):  # deleted, or made anew
                self._forget(name)
        times = {entry.name: _facts_time(Path(entry.path)) for entry in entries if entry.name not in self._inodes}
        unseen = [name for name, moment in times.items() if self._settled.get(job_run_id(name), "-") != moment]
        self._unseen += sorted(unseen, key=lambda name: int(times[name] or 0))
        self._inodes, self._listed_ns = inodes, changed_ns if is_still else -1

    def _forget(self, job: str) -> None:
        """Delete the runs of a job that was deleted."""
        for key, run_id in self._ids.pop(job, {}).items():
            self._store.forget_run(run_id, self._artifacts)
            self._open.pop(run_id, None)
            self._runs.pop(key, None)
        self._settled.pop(job_run_id(job), None)
        self._fingerprints.pop(job, None)
        self._inodes.pop(job, None)
        self._unsettled.discard(job)
        self._unseen = [name for name in self._unseen if name != job]

    def _settle(self, job: str, run: _Run, facts_time: str) -> None:
        """Mark a job as ingested whole, and keep nothing of it in memory but that."""
        self._tag(run.id, {SETTLED_TAG: facts_time})
        self._settled[run.id] = facts_time
        self._fingerprints.pop(job, None)
        self._unsettled.discard(job)
        for key in self._ids[job]:
            self._runs.pop(key, None)

    def _ingest_job(self, folder: Path) -> int:
        facts_time = _facts_time(folder)
        if not facts_time:  # its experiment isn't known yet
            return 0
        attempts = sorted(path for path in folder.glob("*/*") if path.is_dir() and path.name.isdigit())
        fingerprint = tuple(
            (str(path), path.stat().st_size, path.stat().st_mtime_ns)
            for path in [folder / FILE, *(StepFolder(attempt).metrics for attempt in attempts), *attempts]
            if path.exists()
        )
        if self._fingerprints.get(folder.name) == fingerprint:
            return 0
        facts = read_job_facts(folder)
        tags = {"mafunzo.job": facts.name, "mlflow.user": facts.created_by, **facts.tags}
        title, run_id = facts.display_name or facts.name, job_run_id(facts.name)
        parameters = {} if facts.is_one_command else facts.parameters
        parent = self._run(facts.experiment, facts.name, run_id, title, tags, facts.started_at, parameters)
        steps = {step.name: step for step in facts.steps}
        lines = sum(self._ingest_attempt(facts, steps.get(path.parent.name), path, parent) for path in attempts)
        self._end(parent, facts.status, facts.ended_at)
        self._fingerprints[folder.name] = fingerprint
        if STATUSES.get(facts.status) in ENDED:
            self._settle(folder.name, parent, facts_time)
        return lines

    def _ingest_attempt(self, job: JobFacts, step: StepFacts | None, folder: Path, parent: _Run) -> int:
        name, attempt = folder.parent.name, folder.name
        step = step or StepFacts(name=name, status="running")
        if not (step.is_users or StepFolder(folder).metrics.exists()):
            return 0
        run = parent if job.is_one_command else self._step_run(job, step, attempt, parent)
        if step.is_users:
            self._open_or_close(run.id, step, folder)
        lines = self._ingest_lines(run, parent, folder)
        if run is not parent:
            is_newest = step.attempt in (0, int(attempt))
            self._end(run, step.status if is_newest else "failed", step.ended_at)
        return lines

    def _step_run(self, job: JobFacts, step: StepFacts, attempt: str, parent: _Run) -> _Run:
        title = step.name if attempt == "1" else f"{step.name} (attempt {attempt})"
        tags = {"mafunzo.job": job.name, "mafunzo.step": step.name, "mlflow.parentRunId": parent.id}
        run_id = step_run_id(job.name, step.name, int(attempt), is_alone=False)
        parameters = {} if step.is_users else step.parameters
        key = f"{job.name}/{step.name}/{attempt}"
        return self._run(job.experiment, key, run_id, title, tags, step.started_at, parameters)

    def _open_or_close(self, run_id: str, step: StepFacts, folder: Path) -> None:
        """Open the run if this is the newest attempt of a step that may run, else close it."""
        newest = max(int(path.name) for path in folder.parent.iterdir() if path.name.isdigit())
        if step.may_run and int(folder.name) == newest:
            self._open[run_id] = folder
        elif self._open.get(run_id) == folder:
            del self._open[run_id]

    def _ingest_lines(self, run: _Run, parent: _Run, folder: Path) -> int:
        file, offset_tag = StepFolder(folder).metrics, f"{OFFSET_TAG}.{folder.parent.name}.{folder.name}"
        if not file.exists():
            return 0
        lines, end = _new_lines(file, run.offsets.get(offset_tag, 0))
        if lines:
            # MLflow drops a metric that it holds already, so a crash between the two writes below repeats harmlessly.
            if run is not parent:
                self._log(parent.id, lines)
            self._log(run.id, lines, RunTag(offset_tag, str(end)))
            run.offsets[offset_tag] = end
        return len(lines)

    def _run(
        self,
        experiment: str,
        key: str,
        run_id: str,
        title: str,
        tags: Mapping[str, str],
        started_at: float | None,
        parameters: Mapping[str, Any],
    ) -> _Run:
        """Return the run of a key with these tags, created if it isn't there; a user's own step logs its parameters itself."""
        tag_texts = {name: str(value)[:TAG_LENGTH] for name, value in tags.items() if value}
        run = self._runs.get(key) or self._of_earlier_process(key)
        if run is None:
            start_ms = None if started_at is None else int(started_at * 1000)
            run_tags = [RunTag(name, value) for name, value in {**tag_texts, KEY_TAG: key}.items()]
            params = [Param(name, str(value)[:PARAMETER_LENGTH]) for name, value in parameters.items()]
            self._store.add_run(run_id, self._experiment(experiment), start_ms, title, run_tags, params)
            run = self._runs[key] = _Run(run_id, status="RUNNING")
            self._ids.setdefault(key.partition("/")[0], {})[key] = run_id
        elif run.tags != tag_texts:
            self._tag(run.id, tag_texts)
        run.tags = tag_texts
        return run

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._store.log_batch(run_id, [], [], [RunTag(name, value) for name, value in tags.items()])

    def _log(self, run_id: str, lines: Sequence[Mapping[str, Any]], *tags: RunTag) -> None:
        """Log the metrics of lines, and with the last of them tags."""
        metrics = [
            Metric(name, float(value), round(line["time"] * 1000), int(line["step"]))
            for line in lines
            for name, value in line.items()
            if name not in ("time", "step") and isinstance(value, int | float)
        ]
        last = max(len(metrics) - 1, 0) // BATCH * BATCH
        for start in range(0, last, BATCH):
            self._store.log_batch(run_id, metrics[start : start + BATCH], [], [])
        self._store.log_batch(run_id, metrics[last:], [], tags)

    def _end(self, run: _Run, status: str, ended_at: float | None) -> None:
        run_status = STATUSES.get(status, "RUNNING")
        if run.status == run_status:
            return
        end_ms = None if run_status in ("RUNNING", "SCHEDULED") else int((ended_at or time.time()) * 1000)
        self._store.update_run_info(run.id, RunStatus.from_string(run_status), end_ms, None)
        run.status = run_status

    def _experiment(self, name: str) -> Experiment:
        if name not in self._experiments:
            experiment = self._store.get_experiment_by_name(name)
            id = self._store.create_experiment(name) if experiment is None else experiment.experiment_id
            if experiment is not None and experiment.lifecycle_stage == "deleted":
                self._store.restore_experiment(id)
            self._store.set_experiment_tag(id, ExperimentTag(JOBS_TAG, "true"))
            self._experiments[name] = self._store.get_experiment(id)
        return self._experiments[name]

    def _of_earlier_process(self, key: str) -> _Run | None:
        """Return the run of a key as an earlier process has left it, or None."""
        run_id = self._ids.get(key.partition("/")[0], {}).get(key)
        if run_id is None:
            return None
        known = self._store.get_run(run_id)
        offsets = {name: int(value) for name, value in known.data.tags.items() if name.startswith(OFFSET_TAG)}
        run = self._runs[key] = _Run(run_id, offsets, known.info.status)
        return run


def _facts_time(folder: Path) -> str:
    """Return when a job's facts were written, in nanoseconds; an empty text where they aren't yet."""
    try:
        return str((folder / FILE).stat().st_mtime_ns)
    except FileNotFoundError:
        return ""


def _line(metric: Metric) -> dict[str, Any]:
    value = metric.value if math.isfinite(metric.value) else None
    return {"time": metric.timestamp / 1000, "step": metric.step, metric.key: value}


def _point(line: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(line.items()))


def _new_lines(file: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Return the whole lines after `offset` bytes, and the offset after them; a file that shrank is read from its start."""
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(offset if offset <= size else 0)
        start = stream.tell()
        text = stream.read()
    whole = text[: text.rfind(b"\n") + 1]
    return list(filter(None, map(metrics_of, whole.splitlines(keepends=True)))), start + len(whole)
