"""MLflow as a view of the jobs in a home: takes their `metrics.jsonl` in, and serves MLflow's API and pages on loopback.

`python -m mafunzo.tracking --home FOLDER --port-file FILE` is a process of its own with its own database, one
worker, and neither job execution nor telemetry. A job is a run of its experiment, each attempt of a step a run under it.
It may die or be deleted at any time: what it shows is rebuilt from the jobs' folders, and no line is taken in twice.
"""

import argparse
import hmac
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mafunzo.errors import PortInUse
from mafunzo.tracking.job_facts import JobFacts, StepFacts, read_job_facts

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
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
KEY_TAG = "mafunzo.key"
OFFSET_TAG = "mafunzo.offset"


@dataclass
class _Run:
    """A run in MLflow: how many bytes of its `metrics.jsonl` it holds, and what was last written besides."""

    id: str
    offset: int = 0
    status: str = ""
    tags: dict[str, str] = field(default_factory=dict)


class View:
    """Takes jobs in. Runs are found again by their key: `job`, or `job/step/attempt`."""

    def __init__(self, jobs: Path, client: "MlflowClient") -> None:
        self._jobs = jobs
        self._client = client
        self._experiments: dict[str, str] = {}
        self._runs = dict(self._existing())
        self._seen: dict[str, tuple[tuple[str, int, int], ...]] = {}

    def tick(self) -> int:
        """Take in what is new, and return how many lines of metrics that were."""
        folders = sorted(folder for folder in self._jobs.iterdir() if folder.is_dir()) if self._jobs.exists() else []
        return sum(self._take_job(folder) for folder in folders)

    def _take_job(self, folder: Path) -> int:
        fingerprint = tuple(
            (str(file), file.stat().st_size, file.stat().st_mtime_ns)
            for file in [*sorted(folder.glob("job.json")), *sorted(folder.glob(f"*/*/{METRICS_FILE}"))]
        )
        if self._seen.get(folder.name) == fingerprint:
            return 0
        facts = read_job_facts(folder)
        tags = {"mafunzo.job": facts.name, "mlflow.user": facts.created_by, **facts.tags}
        parent = self._run(
            facts, facts.name, facts.display_name or facts.name, facts.parameters, tags, facts.started_at
        )
        steps = {step.name: step for step in facts.steps}
        lines = 0
        for file in sorted(folder.glob(f"*/*/{METRICS_FILE}")):
            lines += self._take_step(facts, steps.get(file.parts[-3]), file, parent)
        self._end(parent, facts.status, facts.ended_at)
        self._seen[folder.name] = fingerprint
        return lines

    def _take_step(self, job: JobFacts, step: StepFacts | None, file: Path, parent: _Run) -> int:
        name, attempt = file.parts[-3], file.parts[-2]
        step = step or StepFacts(name=name, status="running")
        title = name if attempt == "1" else f"{name} (attempt {attempt})"
        tags = {"mafunzo.job": job.name, "mafunzo.step": name, "mlflow.parentRunId": parent.id}
        run = self._run(job, f"{job.name}/{name}/{attempt}", title, step.parameters, tags, step.started_at)
        lines, end = _new_lines(file, run.offset)
        if lines:
            # MLflow drops a metric that it holds already, so a crash between the two writes below repeats harmlessly.
            for target in (run, parent):
                self._log(target.id, lines)
            run.offset = end
            self._client.set_tag(run.id, OFFSET_TAG, str(end))
        is_newest = step.attempt in (0, int(attempt)) if attempt.isdigit() else True
        self._end(run, step.status if is_newest else "failed", step.ended_at)
        return len(lines)

    def _run(
        self,
        job: JobFacts,
        key: str,
        title: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
        started_at: float | None,
    ) -> _Run:
        from mlflow.entities import Param, RunTag

        written = {name: str(value)[:TAG_LENGTH] for name, value in tags.items() if value}
        found = self._runs.get(key)
        if found is None:
            start_ms = None if started_at is None else int(started_at * 1000)
            created = self._client.create_run(
                self._experiment(job.experiment), start_ms, {**written, KEY_TAG: key}, run_name=title
            )
            found = self._runs[key] = _Run(created.info.run_id, status="RUNNING", tags=written)
            params = [Param(name, str(value)[:PARAMETER_LENGTH]) for name, value in parameters.items()]
            self._client.log_batch(found.id, params=params[:BATCH])
        elif found.tags != written:
            self._client.log_batch(found.id, tags=[RunTag(name, value) for name, value in written.items()])
            found.tags = written
        return found

    def _log(self, run_id: str, lines: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), int(line.get("time", 0) * 1000), int(line.get("step", 0)))
            for line in lines
            for name, value in line.items()
            if name not in ("time", "step") and isinstance(value, int | float)
        ]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _end(self, run: _Run, status: str, ended_at: float | None) -> None:
        wanted = STATUSES.get(status, "RUNNING")
        if run.status == wanted:
            return
        if wanted in ("RUNNING", "SCHEDULED"):
            self._client.update_run(run.id, status=wanted)
        else:
            self._client.set_terminated(run.id, wanted, None if ended_at is None else int(ended_at * 1000))
        run.status = wanted

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            self._experiments[name] = found.experiment_id if found else self._client.create_experiment(name)
        return self._experiments[name]

    def _existing(self) -> Iterator[tuple[str, _Run]]:
        """Yield the runs that an earlier process made."""
        experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        token = None
        while experiments:
            page = self._client.search_runs(experiments, f"tags.`{KEY_TAG}` != ''", max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                yield tags[KEY_TAG], _Run(run.info.run_id, int(tags.get(OFFSET_TAG, 0)), run.info.status)
            token = page.token
            if not token:
                return


def _new_lines(file: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Return the whole lines after `offset` bytes, and the offset after them; a file that shrank is read anew."""
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(offset if offset <= size else 0)
        start = opened.tell()
        text = opened.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line.strip()], start + len(whole)


def serve(
    home: Path, port: int, port_file: Path | None, every_s: float, parent: int | None, token: str | None = None
) -> None:
    """Take jobs in and serve until the process is ended, or until the process `parent` is gone.

    token: who doesn't send it as a bearer token gets 401.
    """
    listener = _listen(port)
    folder = home / "mlflow"
    (folder / "artifacts").mkdir(parents=True, exist_ok=True, mode=0o700)
    database = f"sqlite:///{folder / 'mlflow.db'}"
    _configure(database, folder / "artifacts")

    import uvicorn
    from mlflow import MlflowClient
    from mlflow.server.fastapi_app import app

    view = View(home / "jobs", MlflowClient(tracking_uri=database))
    guarded = app if token is None else TokenOnly(app, token)
    server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning", access_log=False))
    stop = threading.Event()
    taker = threading.Thread(target=_take_in, args=(view, stop, every_s, parent, server), daemon=True)
    taker.start()
    if port_file is not None:
        scratch = port_file.with_name(f".{port_file.name}.{os.getpid()}")
        scratch.write_text(str(listener.getsockname()[1]), encoding="utf-8")
        scratch.replace(port_file)
    logger.info("MLflow listens on http://127.0.0.1:%d", listener.getsockname()[1])
    server.run(sockets=[listener])
    stop.set()
    taker.join(timeout=10)


class TokenOnly:
    """Answers requests with the right bearer token only: other users of this machine reach loopback ports as well."""

    def __init__(self, app: Any, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = next((value for name, value in scope.get("headers", ()) if name == b"authorization"), b"")
        if scope["type"] == "http" and not hmac.compare_digest(given, self._expected):
            await send({"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Bearer")]})
            await send({"type": "http.response.body", "body": b"The token is missing or wrong.\n"})
            return
        await self._app(scope, receive, send)


def _configure(database: str, artifacts: Path) -> None:
    """Set what MLflow's server reads from its environment; it must happen before the server is imported."""
    os.environ.update(
        {
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_REGISTRY_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts.as_uri(),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_TRACKING_URI": database,
        }
    )


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise PortInUse(f"MLflow's port {port} is in use. Choose another one, or 0 for any that is free.") from error
    return listener


def _take_in(view: View, stop: threading.Event, every_s: float, parent: int | None, server: Any) -> None:
    """Take jobs in again and again; a line that can't be read must not end the pages."""
    while not stop.is_set():
        if parent is not None and not _is_running(parent):
            server.should_exit = True
            return
        try:
            view.tick()
        except Exception:  # the thread's border: the next tick tries again
            logger.exception("Could not take in what the jobs have written")
        stop.wait(every_s)


def _is_running(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid)) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m mafunzo.tracking", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the home folder, which has jobs/")
    parser.add_argument("--port", type=int, default=0, help="the loopback port; 0 takes one that is free")
    parser.add_argument("--port-file", type=Path, help="where to write the port once it is taken")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="how often to look for new lines")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process is gone")
    parser.add_argument("--token-file", type=Path, help="holds the bearer token that requests must have")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    token = given.token_file.read_text(encoding="ascii").strip() if given.token_file else None
    serve(given.home.absolute(), given.port, given.port_file, given.every, given.parent, token)
