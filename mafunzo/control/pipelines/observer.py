"""What is seen of the jobs: the rows, and the attempts' folders, as the state from which `decide` makes its choices.

It changes nothing, and keeps in memory only what the same look would find again.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mafunzo.control.launcher.environment import ENVIRONMENTS_FOLDER, environment_folder, is_ready
from mafunzo.control.launcher.local import ExitRecord, LocalLauncher, Running
from mafunzo.control.launcher.steady_clock import uptime
from mafunzo.control.pipelines.attempt import last_folder, logged_values, step_folder
from mafunzo.control.pipelines.cache import Ingredients, differences, ingredients, key_of
from mafunzo.control.pipelines.decide import AGAIN, WAITS, JobState, Process, StepState, upstream
from mafunzo.control.pipelines.stopping import Trial
from mafunzo.control.pipelines.sweep import is_undrawn, sweep_of, sweeps_of
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.home import Home
from mafunzo.control.store.records import Records
from mafunzo.entities.job import Job, Step, StepStatus
from mafunzo.entities.pruning import PruneKind, pruned_at
from mafunzo.entities.sweep import Sweep
from mafunzo.entities.uptime import Uptime, elapsed_s
from mafunzo.tracking.regular_file import is_regular
from mafunzo.tracking.step_folder import StepFolder

HALTED_FILE = "halted"
"""Marks an attempt that was ended because the server was stopped."""
StepName = tuple[str, str]
"""Job and step."""
Outputs = Mapping[str, Mapping[str, str]]
"""The hashes of what steps have written, by step and output."""


class Observer:
    """Looks at the jobs of one home. versions: of what else decides outputs.

    damaged: the artifacts that were found damaged, until they are stored anew; no step is spared for them.
    """

    def __init__(
        self,
        records: Records,
        artifacts: Artifacts,
        launcher: LocalLauncher,
        home: Home,
        versions: Callable[[], Mapping[str, str]],
        uptime: Callable[[], Uptime | None] = uptime,
    ) -> None:
        self._records, self._artifacts, self._launcher, self._home = records, artifacts, launcher, home
        self._versions, self._uptime = versions, uptime
        self._keys: dict[StepName, Ingredients] = {}
        self.damaged: set[str] = set()

    def job_state(self, job: Job, busy: Set[StepName]) -> JobState:
        """Return a job with what is seen of its steps; at those that are `busy` a thread is at work."""
        steps = self._records.steps.of(job.name)
        outputs, sweeps = _outputs(steps), sweeps_of(job, steps)
        later = _later_trials(steps, sweeps)
        states = []
        for step in steps:
            sweep = sweeps.get(step.spec.trial_of)
            if (job.name, step.name) in busy:
                state = StepState(step, is_busy=True)
            elif step.name in later or step.spec.sweep is not None:
                state = StepState(step, is_overdue=self._is_overdue_sweep(step))
            else:
                state = self._step_state(job, step, outputs, sweep)
            if sweep is not None and step.spec.sweep is None:
                state = replace(state, values=logged_values(last_folder(self._home, step), sweep.metric))
            states.append(state)
        is_overdue = job.sweep is not None and self._has_passed(job, job.sweep.timeout_s)
        return JobState(job, tuple(states), is_overdue)

    def trials(self, sweep: Sweep, steps: Iterable[Step]) -> list[Trial]:
        """Return a sweep's trials with what they have logged."""
        return [Trial(step, logged_values(last_folder(self._home, step), sweep.metric)) for step in steps]

    def outputs(self, job: str) -> Outputs:
        """Return what the steps of a job that are done have written."""
        return _outputs(self._records.steps.of(job))

    def key(self, step: Step, outputs: Outputs) -> Ingredients:
        """Return all that decides a step's outputs, as it was when it was first asked for; `forget` ends that."""
        name = (step.job, step.name)
        if name not in self._keys:
            self._keys[name] = ingredients(step.spec, outputs, self._versions())
        return self._keys[name]

    def forget(self, job: str, step: str | None = None) -> None:
        """Have `key` look anew at a step, or at all of a job."""
        self._keys = {name: key for name, key in self._keys.items() if name[0] != job or step not in (None, name[1])}

    def attempts(self, step: Step) -> list[Path]:
        """Return the folders of all attempts of a step."""
        parent = step_folder(self._home, step).parent
        return [parent / str(number) for number in range(1, step.attempt + 1)]

    def why(self, step: Step, key: Ingredients) -> str:
        """Return why the next attempt of a step runs."""
        return self._explain_retry(step) if step.attempt else self._explain(step, key)

    def _step_state(self, job: Job, step: Step, outputs: Outputs, sweep: Sweep | None) -> StepState:
        if step.status == StepStatus.RUNNING:
            folder = step_folder(self._home, step)
            process = self._process(folder)
            if process in (Process.RUNNING, Process.SUCCEEDED):
                is_held_up = StepFolder(folder).without_cores.exists()
                is_overdue = not is_held_up and self._has_passed(step, step.spec.timeout_s)
                return StepState(step, process, is_overdue=is_overdue)
            folders = self.attempts(step)
            records = [record for folder in folders if (record := self._launcher.record(folder)) is not None]
            failures = sum(_outcome(record) == Process.FAILED for record in records)
            peaks = [record.peak_memory_mb for record in records if _outcome(record) == Process.OUT_OF_MEMORY]
            # Those that really ran, and were ended from outside, not by us.
            cut_offs = sum(self._launcher.was_cut_off(path) for path in folders if not (path / HALTED_FILE).exists())
            return StepState(step, process, failures, len(peaks), cut_offs, min(peaks, default=0.0))
        if step.status == StepStatus.WAITING and upstream(step) <= set(outputs):
            has_values = sweep is None or not is_undrawn(step, sweep)
            state = self.reusable(job, step, outputs) if has_values else StepState(step)
            return replace(state, must_build=self.must_build(step))
        return StepState(step)

    def _is_overdue_sweep(self, step: Step) -> bool:
        return step.spec.sweep is not None and self._has_passed(step, step.spec.sweep.timeout_s)

    def _has_passed(self, begun: Job | Step, limit_s: float) -> bool:
        """Return whether the limit of a job or step is over; 0 is none."""
        if not limit_s or begun.started_at is None:
            return False
        return elapsed_s(begun.started_at, begun.started_uptime, datetime.now(UTC), self._uptime()) > limit_s

    def must_build(self, step: Step) -> bool:
        """Return whether the environment of a step isn't there yet."""
        runtime = step.spec.runtime
        if runtime is None or not runtime.packages:
            return False
        return not is_ready(environment_folder(self._home.root / ENVIRONMENTS_FOLDER, runtime))

    def _process(self, folder: Path) -> Process:
        match self._launcher.status(folder):
            case ExitRecord() as record:
                return _outcome(record)
            case Running():
                return Process.RUNNING
        return Process.LOST

    def reusable(self, job: Job, step: Step, outputs: Outputs) -> StepState:
        """Return a step with the outputs that may be taken over from an earlier one, if there are any.

        A trial is chosen by what it has logged, so that it takes over that as well, or nothing.
        """
        if job.force_rerun or not step.spec.is_deterministic:
            return StepState(step)
        earlier = self._records.steps.find_cached(key_of(self.key(step, outputs)))
        if earlier is None or not all(self._is_sound(stored) for stored in earlier.outputs.values()):
            return StepState(step)
        if step.spec.trial_of and not is_regular(StepFolder(last_folder(self._home, earlier)).metrics):
            return StepState(step)
        return StepState(step, reusable=earlier.outputs, source=f"{earlier.job}/{earlier.name}")

    def _is_sound(self, artifact: str) -> bool:
        """Return whether an artifact may be taken over, at a look: its bytes are hashed before it is (`Scheduler._reuse`)."""
        return artifact not in self.damaged and self._artifacts.seems_whole(artifact)

    def _explain(self, step: Step, key: Ingredients) -> str:
        job = self._records.jobs.get(step.job)
        sweep, _ = sweep_of(job, step, self._records.steps.of(step.job))
        if sweep is not None:
            return ", ".join(f"{name} {step.spec.literals[name]}" for name in sweep.space)
        if job.force_rerun:
            return "force_rerun is set"
        if not step.spec.is_deterministic:
            return "it isn't deterministic"
        before = self._records.steps.last_like(step.spec.component, step.name)
        if before is None:
            return "it runs for the first time"
        try:
            path = StepFolder(step_folder(self._home, before)).key
            changes = differences(step.name, json.loads(path.read_text(encoding="utf-8")), key)
        except (OSError, ValueError, KeyError):  # the folder of that job was deleted, or is of another version
            return f"what decided its outputs in {before.job} is no longer known"
        if changes:
            return f"{'; '.join(changes)} (since {before.job})"
        if all(self._artifacts.exists(stored) for stored in before.outputs.values()):
            return f"its outputs in {before.job} are damaged"
        moment = pruned_at(self._records.jobs.get(before.job), PruneKind.ARTIFACTS)
        how = "deleted" if moment is None else f"pruned on {moment:%Y-%m-%d}"
        return f"its outputs in {before.job} were {how}"

    def _explain_retry(self, step: Step) -> str:
        if not step.reason.startswith(WAITS):
            return step.reason.partition(AGAIN)[0]
        record = self._launcher.record(step_folder(self._home, step))
        match record and _outcome(record):
            case Process.FAILED:
                return f"attempt {step.attempt} failed"
            case Process.OUT_OF_MEMORY:
                return f"attempt {step.attempt} was ended by the system because memory ran out"
        return f"attempt {step.attempt} was cut off"


def _later_trials(steps: Iterable[Step], sweeps: Mapping[str, Sweep]) -> set[str]:
    """Return the trials before which so many wait that they can't start now: nothing of them need be looked up."""
    room = {name: sweep.max_parallel for name, sweep in sweeps.items()}
    later = set()
    for step in steps:
        sweep = step.spec.trial_of
        if sweep in room and step.status is StepStatus.WAITING and not step.attempt:
            room[sweep] -= 1
            later |= {step.name} if room[sweep] < 0 else set()
    return later


def _outputs(steps: Iterable[Step]) -> Outputs:
    return {step.name: step.outputs for step in steps if step.status.is_done}


def _outcome(record: ExitRecord) -> Process:
    if record.exit_code == 0:
        return Process.SUCCEEDED
    if record.is_out_of_memory:
        return Process.OUT_OF_MEMORY
    return Process.KILLED if record.is_killed else Process.FAILED
