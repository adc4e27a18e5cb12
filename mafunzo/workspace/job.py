"""Jobs: gathering the facts of a request, planning it, putting it into the queue, and what can be asked of it then."""

from __future__ import annotations

import dataclasses
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mafunzo.entities.asset import Asset
from mafunzo.entities.component import Component, unknown_name
from mafunzo.entities.job import ArtifactInput, Job, JobStatus, Step, StepOutputInput
from mafunzo.errors import InvalidParameter, JobCanceled, JobFailed, NotFound, TimedOut, UsageError, from_code
from mafunzo.pipelines.plan import Facts, PinnedComponent, PlanRequest, plan
from mafunzo.tracking import read_metrics
from mafunzo.workspace.asset import Upload
from mafunzo.workspace.component import shipped
from mafunzo.workspace.stream import Event, follow, render

if TYPE_CHECKING:
    from mafunzo.workspace.workspace import Workspace

Faults = list[str]
Steps = list[Step]  # the class below has a verb called list
JOB_OPTIONS = ("job_name", "display_name", "experiment", "priority", "force_rerun", "continue_on_step_failure", "tags")


class Jobs:
    """The verbs on jobs."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def list(self, statuses: tuple[JobStatus, ...] | None = None) -> list[Job]:
        """Return the jobs, newest first."""
        return self._workspace.records.list_jobs(statuses)

    def get(self, name: str) -> JobHandle:
        """Return a job by name; raises `NotFound`."""
        self._workspace.records.get_job(name)
        return JobHandle(self._workspace, name)

    def finetune(self, *, model: str | Path | Asset, train: str | Path, **given: Any) -> JobHandle:
        """Plan a fine-tuning pipeline and put it into the queue. See `Workspace.finetune`."""
        job, steps = self.plan_finetune(model=model, train=train, **given)
        return self._enqueue(job, steps)

    def plan_finetune(
        self,
        *,
        model: str | Path | Asset,
        train: str | Path,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        **given: Any,
    ) -> tuple[Job, Steps]:
        """Return the job and its steps without putting them into the queue; all faults of the request are raised at once."""
        component = shipped("chat_completion_pipeline").component
        faults: Faults = []
        options, parameters = _split_options(given)
        inputs = _canonical(component, parameters, faults)
        for source in _collect(faults, lambda: self._workspace.models.source(model)):
            inputs = {**source.defaults, **inputs, **source.inputs}
            faults += _out_of_card(source.ranges, inputs, source.name)
        files = {"train_file_path": train, "validation_file_path": validation, "test_file_path": test}
        given_files = {name: Path(path).expanduser() for name, path in files.items() if path is not None}
        for name, file in given_files.items():
            for upload in _collect(faults, lambda file=file: self._upload(file)):
                inputs[name] = upload
        faults += _unknown_computes(inputs)
        policy = str(inputs.get("on_bad_row", "fail"))
        _collect(faults, lambda: self._workspace.data.require_good(given_files.values(), policy))
        options.setdefault("experiment", f"chat_completion_{_title(model)}")
        options.setdefault("display_name", f"{_title(model)} on {Path(train).name}")
        return self._plan("chat_completion_pipeline", "finetune", inputs, options, faults)

    def compare(self, *, model: str, data: str | Path, against: str | None = None, **given: Any) -> JobHandle:
        """Evaluate two models on the same rows. Without `against`, the base that `model` was tuned from."""
        faults: Faults = []
        options, parameters = _split_options(given)
        inputs = _canonical(shipped("compare_models").component, parameters, faults)
        for upload in _collect(faults, lambda: self._upload(Path(data).expanduser())):
            inputs["test_file_path"] = upload
        for source in _collect(faults, lambda: self._workspace.models.source(model)):
            inputs |= {f"tuned_{name}": value for name, value in source.inputs.items()}
        base = against or self._base_of(model)
        if base is None:
            faults.append(f"{model} has no known base: name one with --against.")
        else:
            for source in _collect(faults, lambda: self._workspace.models.source(base)):
                inputs |= source.inputs
        options.setdefault("experiment", "compare")
        options.setdefault("display_name", f"{model} against {base}")
        return self._enqueue(*self._plan("compare_models", "compare", inputs, options, faults))

    def import_model(self, reference: str) -> JobHandle:
        """Fetch and convert a model; the job's output `model` is a plain Hugging Face folder."""
        source = self._workspace.models.source(reference)
        options = {"experiment": "import", "display_name": f"import {reference}"}
        return self._enqueue(*self._plan("import_model_pipeline", "import", source.inputs, options, []))

    def preview(self, model: str | Path, data: str | Path, **parameters: Any) -> JobHandle:
        """Render rows of `data` with the model's chat template and the loss mask."""
        source = self._workspace.models.source(model)
        inputs = {**source.inputs, "train_file_path": self._upload(Path(data).expanduser()), **parameters}
        options = {"experiment": "preview", "display_name": f"preview {Path(data).name}"}
        return self._enqueue(*self._plan("preview_data_pipeline", "preview", inputs, options, []))

    def _base_of(self, model: str | Path) -> str | None:
        try:
            return str(self._workspace.models.get(str(model)).properties["base_model"]["reference"])
        except (NotFound, KeyError):
            return None

    def _plan(
        self, pipeline: str, prefix: str, inputs: Mapping[str, Any], options: Mapping[str, Any], faults: Faults
    ) -> tuple[Job, Steps]:
        """Plan a shipped pipeline; the faults found so far and the plan's own are raised together."""
        component = shipped(pipeline).component
        pinned = {node.component: _pin(node.component) for node in component.nodes.values()}
        facts = Facts(pinned=pinned, hardware=self._workspace.computes.hardware(), now=datetime.now(UTC))
        checked = {name: ArtifactInput("", v.name) if isinstance(v, Upload) else v for name, v in inputs.items()}
        request = PlanRequest(
            name=options.get("job_name") or f"{prefix}-{secrets.token_hex(4)}",
            component=component,
            inputs=checked,
            experiment=options.get("experiment") or pipeline,
            display_name=options.get("display_name") or pipeline,
            priority=int(options.get("priority") or 0),
            force_rerun=_is_true(options.get("force_rerun")),
            continue_on_step_failure=_is_true(options.get("continue_on_step_failure")),
            tags=dict(options.get("tags") or {}),
            created_by=self._workspace.user,
        )
        try:
            plan(request, facts)
        except InvalidParameter as error:
            faults = [*faults, *error.faults]
        if faults:
            raise InvalidParameter("The job can't be planned.", faults)
        stored = {name: v.artifact() if isinstance(v, Upload) else v for name, v in inputs.items()}
        return plan(dataclasses.replace(request, inputs=stored), facts)

    def _enqueue(self, job: Job, steps: Steps) -> JobHandle:
        self._workspace.records.add_job(job, steps)
        self._workspace.up()
        return JobHandle(self._workspace, job.name)

    def _upload(self, file: Path) -> Upload:
        self._workspace.data.require_file(file)
        return Upload(file.name, lambda: self._workspace.artifacts.put(file))


class JobHandle:
    """A job that was put into the queue. Closing this process doesn't end it."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self._workspace = workspace
        self.name = name

    def __repr__(self) -> str:
        return f"Job({self.name!r}, {self.status})"

    @property
    def job(self) -> Job:
        return self._workspace.records.get_job(self.name)

    @property
    def steps(self) -> list[Step]:
        return self._workspace.records.list_steps(self.name)

    @property
    def status(self) -> JobStatus:
        return self.job.status

    def events(self) -> Iterator[Event]:
        """Yield what happens, from the beginning of the job to its end, as it happens."""
        return follow(self._workspace, self.name)

    def stream(self, to: TextIO | None = None) -> JobHandle:
        """Show the job until it ends: a progress bar on a terminal, JSON lines elsewhere. Raises as `wait` does."""
        render(self.events(), to or sys.stdout)
        return self.wait()

    def wait(self, timeout_s: float | None = None) -> JobHandle:
        """Return when the job has completed; raises what its step failed with, `JobCanceled`, or `TimedOut`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not (job := self.job).status.is_terminal:
            if deadline is not None and time.monotonic() > deadline:
                raise TimedOut(f"Job {self.name} is still {job.status} after {timeout_s:g} s. It goes on.")
            time.sleep(0.2)
        if job.status is JobStatus.CANCELED:
            raise JobCanceled(f"Job {self.name} was cancelled.")
        if job.status is JobStatus.FAILED:
            raise self._failure(job)
        return self

    def cancel(self) -> None:
        """Ask the scheduler to end the job and all its processes."""
        job = self.job
        if not job.status.is_terminal:
            self._workspace.records.request_cancel(self.name)
            self._workspace.up()

    def output_artifact(self, output: str) -> str:
        """Return the hash of a job's output; raises `NotFound` or `JobFailed` when it isn't there."""
        job = self.job
        source = job.outputs.get(output)
        if source is None:
            raise NotFound(f"Job {self.name} has no output '{output}'. It has: {', '.join(job.outputs) or 'none'}.")
        artifact = self._step(source.step).outputs.get(source.output)
        if artifact is None:
            raise JobFailed(
                f"Job {self.name} is {job.status} and has no {output}. `mafunzo job show {self.name}` says why."
            )
        return artifact

    def download(self, to: str | Path, output: str | None = None) -> list[Path]:
        """Write one output, or all, under `to`; return the folders."""
        job = self.job
        names = [output] if output else [name for name in job.outputs if self._has(job.outputs[name])]
        written = []
        for name in names:
            folder = Path(to) / name
            self._workspace.artifacts.checkout(self.output_artifact(name), folder, is_writable=True)
            written.append(folder)
        return written

    def metrics(self, step: str | None = None) -> dict[str, list[dict[str, Any]]]:
        """Return each step's metrics, line by line: `{"finetune": [{"time": ..., "step": 1, "loss": ...}, ...]}`."""
        names = [step] if step else [s.name for s in self.steps]
        folders = {name: self.folder(name) for name in names}
        return {name: lines for name, at in folders.items() if (lines := list(read_metrics(at / "metrics.jsonl")))}

    def logs(self, step: str) -> str:
        """Return what a step has printed so far; raises `NotFound`."""
        file = self.folder(step) / "log.txt"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def folder(self, step: str) -> Path:
        """Return the folder of a step's newest attempt, which holds `log.txt`, `metrics.jsonl` and `exit.json`.

        A step that was taken from the cache shows the folder of the step that ran.
        """
        found = self._step(step)
        return self._workspace.home.jobs / found.job / found.name / str(max(found.attempt, 1))

    def _step(self, name: str) -> Step:
        for step in self.steps:
            if step.name == name:
                return step
        raise NotFound(f"Job {self.name} has no step '{name}'. It has: {', '.join(s.name for s in self.steps)}.")

    def _has(self, source: StepOutputInput) -> bool:
        return source.output in self._step(source.step).outputs

    def _failure(self, job: Job) -> Exception:
        for step in self.steps:
            if step.error:
                error = from_code(
                    str(step.error.get("code", "step_failed")),
                    f"Step '{step.name}' of job {self.name}: {step.error.get('message', 'failed')}",
                    tuple(step.error.get("faults") or ()),
                )
                return error
        return JobFailed(f"Job {self.name} failed: {(job.error or {}).get('message', 'no step says why')}")


def _pin(name: str) -> PinnedComponent:
    found = shipped(name)
    return PinnedComponent(component=found.component, code=found.code, is_trusted=True)


def _split_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {name: value for name, value in given.items() if name in JOB_OPTIONS}
    return options, {name: value for name, value in given.items() if name not in JOB_OPTIONS}


def _canonical(component: Component, given: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return `given` under the component's own names; aliases are translated, unknown and doubled names are faults."""
    names = {alias: declared.name for declared in component.inputs.values() for alias in declared.aliases}
    inputs: dict[str, Any] = {}
    for name, value in given.items():
        known = name if name in component.inputs else names.get(name)
        if known is None:
            faults.append(unknown_name(name, [*component.inputs, *names, *JOB_OPTIONS]))
        elif known in inputs:
            faults.append(f"{name} and another name of {known} are both given. Keep one.")
        elif value is not None:
            inputs[known] = value
    return inputs


def _out_of_card(ranges: Mapping[str, Any], inputs: Mapping[str, Any], model: str) -> list[str]:
    faults = []
    for name, (low, high) in ranges.items():
        value = inputs.get(name)
        if isinstance(value, int | float) and not low <= value <= high:
            faults.append(f"{name} is {value}, expected {low:g} to {high:g} for {model}.")
    return faults


def _collect(faults: list[str], work: Any) -> list[Any]:
    """Return `[work()]`, or nothing when it raised a usage error, whose text then stands among the faults."""
    try:
        return [work()]
    except UsageError as error:
        faults += [error.message, *error.faults] if error.faults else [error.message]
        return []


def _unknown_computes(inputs: Mapping[str, Any]) -> list[str]:
    computes = {name: value for name, value in inputs.items() if name.startswith("compute_")}
    return [
        f"{name} is '{value}', but no compute has that name. Use local, which is this machine, or leave it out."
        for name, value in computes.items()
        if value not in ("local", "serverless")
    ]


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"


def _title(model: str | Path | Asset) -> str:
    return model.name if isinstance(model, Asset) else Path(str(model).removeprefix("azureml:")).name
