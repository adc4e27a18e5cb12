"""One job: following it to its end, and what it and its steps have written."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mafunzo.control.workspace.liveness import require_server
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.stream import Event, Follower, follow, last_lines_of, readable, render
from mafunzo.entities.job import DEFAULT_OUTPUT, JOB_NAME_LETTERS, Job, JobStatus, Step, StepOutputInput, StepStatus
from mafunzo.entities.pruning import PruneKind, pruned_at
from mafunzo.entities.sweep import BEST_TRIAL
from mafunzo.errors import JobCanceled, JobFailed, MafunzoError, NotFound, StepFailed, TimedOut, from_record
from mafunzo.tracking.log import lines_of, read_blocks
from mafunzo.tracking.metrics import read_metrics
from mafunzo.tracking.regular_file import read_regular
from mafunzo.tracking.run import logged_folders, step_run_id
from mafunzo.tracking.step_folder import LOGS, SAVES_FIRST, StepFolder

logger = logging.getLogger(__name__)

ARTIFACTS = "artifacts"


def find_step(services: Services, name: str) -> Step | None:
    """Return the step that is called `<job>.<step>`, or None."""
    dots = [at for at, letter in enumerate(name[: JOB_NAME_LETTERS + 1]) if letter == "."]
    names = {name[:at]: name[at + 1 :] for at in dots}
    steps = services.records.steps.of_each(names)
    return next((step for job in names for step in steps[job] if step.name == names[job]), None)


def job_view(job: str) -> str:
    """Return what the blobs that show a job's files are views of."""
    return f"job:{job}"


class JobHandle:
    """A job that was put into the queue, and what it and its steps have written. Closing this process doesn't end it."""

    def __init__(self, services: Services, name: str) -> None:
        self._services = services
        self.name = name

    def __repr__(self) -> str:
        return f"Job({self.name!r}, {self.status})"

    @property
    def job(self) -> Job:
        return self._services.records.jobs.get(self.name)

    @property
    def steps(self) -> list[Step]:
        return self._services.records.steps.of(self.name)

    @property
    def status(self) -> JobStatus:
        return self.job.status

    @property
    def best_trial(self) -> Step | None:
        """The trial whose outputs are a sweep's, once it has ended."""
        name = self.job.properties.get(BEST_TRIAL)
        return self.step(name) if name else None

    def events(self) -> Iterator[Event]:
        """Yield what happens, from the beginning of the job to its end, as it happens.

        Raises `ServerFailed` where no server is there any more, so that nothing would happen.
        """
        return follow(self._services, self.name, on_wait=self._require_server)

    def follower(self) -> Follower:
        """Return what sees at each look what is new of the job."""
        return Follower(self._services, self.name)

    def stream(self, to: TextIO | None = None, as_json: bool = False) -> JobHandle:
        """Show the job until it ends: with a progress bar on a terminal, as plain lines elsewhere, or as JSON, one event a
        line. Raises as `wait` does."""
        render(self.events(), to or sys.stdout, as_json)
        return self.wait()

    def wait(self, timeout_s: float | None = None) -> JobHandle:
        """Return when the job has completed; raises what its step failed with, `JobCanceled`, `TimedOut`, or `ServerFailed`
        where no server is there that it would go on with."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not (job := self.job).status.is_terminal:
            if deadline is not None and time.monotonic() > deadline:
                raise TimedOut(f"Job {self.name} is still {job.status} after {timeout_s:g} s. It goes on.")
            self._require_server()
            time.sleep(0.2)
        if job.status is JobStatus.CANCELED:
            raise JobCanceled(f"Job {self.name} was cancelled.")
        if job.status is JobStatus.FAILED:
            raise self._failure(job)
        return self

    def _require_server(self) -> None:
        require_server(self._services, self.name)

    def cancel(self, save: bool = False) -> None:
        """Ask the scheduler to end the job and all its processes. A training step saves a checkpoint first, within a minute.

        save: wait for that, a quarter of an hour if need be; a user's own step has as long after SIGTERM, instead of 10 s.
        """
        job = self.job
        if not job.status.is_terminal:
            if save:
                folder = self._services.home.jobs / self.name
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                (folder / SAVES_FIRST).touch()
            self._services.records.jobs.request_cancel(self.name)
            self._services.up()

    def metrics(self, step: str | None = None) -> dict[str, list[dict[str, Any]]]:
        """Return each step's metrics, line by line: `{"finetune": [{"time": ..., "step": 1, "loss": ...}, ...]}`."""
        names = [step] if step else [s.name for s in self.steps]
        folders = {name: self.folder(name) for name in names}
        return {name: lines for name, at in folders.items() if (lines := list(read_metrics(StepFolder(at).metrics)))}

    def logs(self, step: str) -> str:
        """Return all that a step has printed so far, which may be much; raises `NotFound`."""
        return read_regular(StepFolder(self.folder(step)).log) or ""

    def log_lines(self, step: str, tail: int | None = None) -> Iterator[str]:
        """Yield what a step has printed so far as people read it, all or the last `tail` lines; raises `NotFound`.

        Its log may be of any size: it is read as its lines are taken, or from its end.
        """
        path = StepFolder(self.folder(step)).log
        if tail is not None:
            return iter(last_lines_of(path, tail))
        return readable(text for _, body in read_blocks(path, is_last=True) for _, text in lines_of(body))

    def output_artifact(self, output: str, path: str = "", step: str | None = None) -> str:
        """Return the hash of an output, of the job or of one step, or of the file or folder `path` of it.

        Raises `NotFound` or `JobFailed`. What a user's command wrote to `./outputs` is the output `default`. It is a folder of
        the output `artifacts`, where what the command has logged lies beside it.
        """
        artifact = self._whole_output(output, step)
        if output == ARTIFACTS and path.split("/")[0] == "outputs":  # there, `./outputs` is a folder among others
            path = path.removeprefix("outputs").lstrip("/")
        if not path:
            return artifact
        files = {file.path: (artifact, file.path) for file in self._services.artifacts.manifest(artifact)}
        if output == ARTIFACTS and (source := self._default_output(output, step)):
            maker = self.maker(self.step(source.step))
            files = self.logged(maker) | self.log_files(maker) | files
        below = {file.removeprefix(f"{path}/"): entry for file, entry in files.items() if file.startswith(f"{path}/")}
        chosen = below or {Path(file).name: entry for file, entry in files.items() if file == path}
        if not chosen:
            there = ", ".join(list(files)[:10]) or "nothing"
            raise NotFound(f"Output {output} of job {self.name} has no '{path}'. It has: {there}.")
        return self._services.artifacts.assemble(chosen)

    def folder(self, step: str) -> Path:
        """Return the folder of a step's newest attempt, which holds `log.txt`, `metrics.jsonl` and `exit.json`.

        A step that was taken from the cache shows the folder of the step that ran.
        """
        latest = self.step(step)
        return StepFolder.of(self._services.home.jobs, latest.job, latest.name, max(latest.attempt, 1)).path

    def step(self, name: str) -> Step:
        """Return a step by name; raises `NotFound`."""
        for step in self.steps:
            if step.name == name:
                return step
        raise NotFound(f"Job {self.name} has no step '{name}'. It has: {', '.join(s.name for s in self.steps)}.")

    def maker(self, step: Step) -> Step:
        """Return the step that wrote what a step has: the best trial of one that is a sweep, else the step itself."""
        return self.step(step.properties.get(BEST_TRIAL, step.name))

    def has(self, source: StepOutputInput) -> bool:
        """Return whether a step has written an output."""
        return source.output in self.step(source.step).outputs

    def download(self, to: str | Path, output: str | None = None) -> list[Path]:
        """Write one output, or all, under `to`; return the folders."""
        job = self.job
        names = [output] if output else [name for name in job.outputs if self.has(job.outputs[name])]
        written = []
        for name in names:
            folder = Path(to) / name
            self._lay_out(self.output_artifact(name), folder)
            written.append(folder)
        return written

    def checkout(self, output: str, to: Path, step: str | None = None) -> None:
        """Copy the files of an output, of the job or of one step, into the new folder `to`, where they may be changed."""
        self._lay_out(self.output_artifact(output, step=step), to)

    def _lay_out(self, artifact: str, to: Path) -> None:
        """Write an artifact whose every byte has been hashed; raises `ArtifactCorrupt`, which names what is damaged."""
        self._services.artifacts.require_intact(artifact)
        self._services.artifacts.checkout(artifact, to, is_writable=True)

    def written(self, step: str | None = None) -> dict[str, str]:
        """Return what there is of the outputs of the job, or of one step, by their artifacts.

        Of a user's command that failed, what it had written before is there too.
        """
        own = [name for name in self.step(step).spec.outputs if name != DEFAULT_OUTPUT] if step else []
        sources = {name: StepOutputInput(step, name) for name in own} if step else self.job.outputs
        outputs = {name: self.written_by(self.step(source.step), source.output) for name, source in sources.items()}
        return {name: artifact for name, artifact in outputs.items() if artifact}

    def output_type(self, output: str, step: str | None = None) -> str:
        """Return the type of an output, of the job or of one step: `uri_folder` for one that isn't known."""
        source = StepOutputInput(step, output) if step else self.job.outputs.get(output)
        return self.step(source.step).spec.outputs.get(source.output, "uri_folder") if source else "uri_folder"

    def written_by(self, step: Step, output: str) -> str | None:
        """Return an output's artifact; of a command that failed, what it had written, which is stored only now."""
        place = StepFolder(self.folder(step.name)).outputs / step.spec.output_path(output)
        if step.status is not StepStatus.FAILED or step.spec.is_trusted or not place.exists():
            artifact = step.outputs.get(output)
            return None if artifact and self._is_pruned(artifact) else artifact
        try:
            return self._services.artifacts.put(place)
        except (MafunzoError, OSError) as error:  # the log is worth showing without it
            logger.warning("What %s/%s left in %s can't be stored: %s", step.job, step.name, place, error)
            return None

    def logged(self, step: Step) -> dict[str, tuple[str, str]]:
        """Store what a user's step has logged into its run; return its paths to (artifact, path in it)."""
        if step.spec.is_trusted:
            return {}
        run_id = step_run_id(self.name, step.name, step.attempt, len(self.steps) == 1)
        files: dict[str, tuple[str, str]] = {}
        for prefix, folder in logged_folders(self._services.home.root, run_id):
            artifact = self._services.artifacts.put(folder)
            files |= {
                f"{prefix}{file.path}": (artifact, file.path) for file in self._services.artifacts.manifest(artifact)
            }
        return files

    def log_files(self, step: Step) -> dict[str, tuple[str, str]]:
        """Store what a user's step has written to `./logs`; return its paths, `logs/...`, to (artifact, path in it)."""
        folder = StepFolder(self.folder(step.name)).logs
        if step.spec.is_trusted or not folder.is_dir():
            return {}
        try:
            artifact = self._services.artifacts.put(folder)
        except (MafunzoError, OSError) as error:  # the rest is worth showing without it
            logger.warning("What %s/%s left in %s can't be stored: %s", step.job, step.name, folder, error)
            return {}
        return {f"{LOGS}/{file.path}": (artifact, file.path) for file in self._services.artifacts.manifest(artifact)}

    def _failure(self, job: Job) -> Exception:
        failed = (job.error or {}).get("step")
        for step in self.steps:
            if step.name == failed and step.error:
                error = from_record(step.error, StepFailed("failed"))
                return type(error)(f"Step '{step.name}' of job {self.name}: {error.message}", error.faults)
        return JobFailed(f"Job {self.name} failed: {(job.error or {}).get('message', 'no step says why')}")

    def _is_pruned(self, artifact: str) -> bool:
        """Return whether an artifact of the job went when its files were pruned, and wasn't made anew since."""
        return not self._services.artifacts.exists(artifact) and bool(pruned_at(self.job, PruneKind.ARTIFACTS))

    def _whole_output(self, output: str, step: str | None) -> str:
        job = self.job
        known = {name: StepOutputInput(step, name) for name in self.step(step).spec.outputs} if step else job.outputs
        source = known.get(output) or self._default_output(output, step)
        if source is None:
            raise NotFound(f"Job {self.name} has no output '{output}'. It has: {', '.join(known) or 'none'}.")
        artifact = self.step(source.step).outputs.get(source.output)
        if artifact is None:
            raise JobFailed(
                f"Job {self.name} is {job.status} and has no {output}. `mafunzo job show {self.name}` says why."
            )
        if self._is_pruned(artifact):
            moment = pruned_at(job, PruneKind.ARTIFACTS)
            raise NotFound(
                f"Output {output} of job {self.name} was pruned on {moment:%Y-%m-%d}. Submit the job again under another name: "
                "it makes it anew."
            )
        return artifact

    def _default_output(self, output: str, step: str | None) -> StepOutputInput | None:
        """Return which step's `./outputs` is meant: of `step`, else of a sweep's best trial, else of the last that has it."""
        steps = [step.name for step in self.steps if DEFAULT_OUTPUT in step.spec.outputs]
        if output not in (DEFAULT_OUTPUT, ARTIFACTS) or not steps:
            return None
        return StepOutputInput(step or self.job.properties.get(BEST_TRIAL, steps[-1]), DEFAULT_OUTPUT)
