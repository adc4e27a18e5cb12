"""What a job and its steps have written: their folders, outputs and files."""

from __future__ import annotations

import logging
from pathlib import Path

from mafunzo.control.pipelines.attempt import written_to
from mafunzo.control.workspace.logged_file import logged_files
from mafunzo.control.workspace.services import Services
from mafunzo.entities.job import DEFAULT_OUTPUT, Job, Step, StepOutputInput, StepStatus
from mafunzo.entities.sweep import BEST_TRIAL
from mafunzo.errors import JobFailed, MafunzoError, NotFound
from mafunzo.tracking.run import step_run_id
from mafunzo.tracking.step_folder import StepFolder

logger = logging.getLogger(__name__)

ARTIFACTS = "artifacts"


def find_step(services: Services, name: str) -> Step | None:
    """Return the step that is called `<job>.<step>`, or None."""
    parts = name.split(".")
    jobs = {".".join(parts[:end]): ".".join(parts[end:]) for end in range(1, len(parts))}
    for job, step_name in jobs.items():
        for step in services.records.steps.of(job):
            if step.name == step_name:
                return step
    return None


def job_view(job: str) -> str:
    """Return what the blobs that show a job's files are views of."""
    return f"job:{job}"


class JobOutputs:
    """The outputs and files of one job."""

    def __init__(self, services: Services, name: str) -> None:
        self._services = services
        self.name = name

    @property
    def job(self) -> Job:
        return self._services.records.jobs.get(self.name)

    @property
    def steps(self) -> list[Step]:
        return self._services.records.steps.of(self.name)

    def artifact(self, output: str, path: str = "", step: str | None = None) -> str:
        """Return the hash of an output, of the job or of one step, or of the file or folder `path` of it.

        Raises `NotFound` or `JobFailed`. What a user's command wrote to `./outputs` is the output `default`. It is a folder of
        the output `artifacts`, where what the command has logged with MLflow lies beside it.
        """
        artifact = self._whole_output(output, step)
        if output == ARTIFACTS:  # there, `./outputs` is a folder among others
            path = path.removeprefix("outputs").lstrip("/")
        if not path:
            return artifact
        files = {file.path: (artifact, file.path) for file in self._services.artifacts.manifest(artifact)}
        if output == ARTIFACTS and (source := self._default_output(output, step)):
            files = self.logged(self.step(source.step)) | files
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
            self._services.artifacts.checkout(self.artifact(name), folder, is_writable=True)
            written.append(folder)
        return written

    def written(self, step: str | None = None) -> dict[str, str]:
        """Return what there is of the outputs of the job, or of one step, by their artifacts.

        Of a user's command that failed, what it had written before is there too.
        """
        own = [name for name in self.step(step).spec.outputs if name != DEFAULT_OUTPUT] if step else []
        sources = {name: StepOutputInput(step, name) for name in own} if step else self.job.outputs
        outputs = {name: self.written_by(self.step(source.step), source.output) for name, source in sources.items()}
        return {name: artifact for name, artifact in outputs.items() if artifact}

    def written_by(self, step: Step, output: str) -> str | None:
        """Return an output's artifact; of a command that failed, what it had written, which is stored only now."""
        place = written_to(step.spec, self.folder(step.name), output)
        if step.status is not StepStatus.FAILED or step.spec.is_trusted or not place.exists():
            return step.outputs.get(output)
        try:
            return self._services.artifacts.put(place)
        except (MafunzoError, OSError) as error:  # the log is worth showing without it
            logger.warning("What %s/%s left in %s can't be stored: %s", step.job, step.name, place, error)
            return None

    def logged(self, step: Step) -> dict[str, tuple[str, str]]:
        """Return what a user's step has logged with MLflow: its paths to (artifact, path in it)."""
        if step.spec.is_trusted:
            return {}
        run = step_run_id(self.name, step.name, step.attempt, len(self.steps) == 1)
        return logged_files(self._services, run)

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
        return artifact

    def _default_output(self, output: str, step: str | None) -> StepOutputInput | None:
        """Return which step's `./outputs` is meant: of `step`, else of a sweep's best trial, else of the last that has it."""
        steps = [step.name for step in self.steps if DEFAULT_OUTPUT in step.spec.outputs]
        if output not in (DEFAULT_OUTPUT, ARTIFACTS) or not steps:
            return None
        return StepOutputInput(step or self.job.properties.get(BEST_TRIAL, steps[-1]), DEFAULT_OUTPUT)
