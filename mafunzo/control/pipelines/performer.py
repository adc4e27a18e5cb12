"""What is done with jobs and steps once it is decided: start, collect, reuse, put back, fail, cancel, finish.

Each change is written before the next begins (see `scheduler`), so that whoever comes after a crash goes on from the rows.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mafunzo.control.launcher.environment import ENVIRONMENTS_FOLDER
from mafunzo.control.launcher.local import PASSIVE_WAIT, LocalLauncher
from mafunzo.control.launcher.ray_cluster import driver_command, environment_token, ray_variables
from mafunzo.control.launcher.steady_clock import uptime
from mafunzo.control.pipelines.attempt import (
    MEMORY_BUDGET,
    Prepared,
    clean,
    collect,
    failure,
    failure_of,
    outputs_stay,
    prepare,
    process_facts,
    step_folder,
    take_over_metrics,
)
from mafunzo.control.pipelines.cache import Ingredients, key_of
from mafunzo.control.pipelines.decide import (
    Finish,
    need_of,
    without_cores,
)
from mafunzo.control.pipelines.delivery import deliver
from mafunzo.control.pipelines.observer import Observer
from mafunzo.control.pipelines.stopping import Trial
from mafunzo.control.pipelines.sweep import is_undrawn, suggest, sweep_of
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.blob import Blobs
from mafunzo.control.store.cluster_token import token_of
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.outbox import Notice, Outbox
from mafunzo.control.store.records import Records
from mafunzo.control.store.space import Space, megabytes
from mafunzo.entities.compute import Placement
from mafunzo.entities.job import (
    DEFAULT_OUTPUT,
    Job,
    JobStatus,
    LiteralInput,
    Resources,
    Step,
    StepOutputInput,
    StepStatus,
)
from mafunzo.entities.sweep import BEST_TRIAL, BEST_VALUE
from mafunzo.errors import Conflict, JobFailed, MafunzoError, StorageFull
from mafunzo.tracking.atomic_json import write_json
from mafunzo.tracking.step_folder import SAVES_FIRST, StepFolder

logger = logging.getLogger(__name__)

PATIENT_GRACE_S = 900.0
"""How long a step may take to end, once it is told to, where its job was cancelled so that it saves first."""
OWNER = "job:"
SHOWN_FAULTS = 5
UserVariables = Callable[[Job, Step, Mapping[str, str], Mapping[str, str]], Mapping[str, str]]


class Performer:
    """Performs what the scheduler decides. grace_s, saving_grace_s, user_variables, outbox: as it takes them."""

    def __init__(
        self,
        records: Records,
        artifacts: Artifacts,
        leases: Leases,
        launcher: LocalLauncher,
        home: Home,
        capacity: Resources,
        observer: Observer,
        space: Space,
        *,
        grace_s: float,
        saving_grace_s: float,
        user_variables: UserVariables,
        outbox: Outbox | None,
    ) -> None:
        self._records, self._artifacts, self._leases = records, artifacts, leases
        self._launcher, self._home, self._capacity = launcher, home, capacity
        self._blobs = Blobs(records, artifacts, home)
        self._observer, self._space, self._outbox = observer, space, outbox
        self._grace_s, self._saving_grace_s, self._user_variables = grace_s, saving_grace_s, user_variables

    def begin(self, job: Job) -> None:
        """Mark a job as running; what was said of it since it was looked at stays."""
        now = self._records.jobs.get(job.name)
        self._records.jobs.update(replace(now, status=JobStatus.RUNNING, started_at=_now(), started_uptime=uptime()))

    def start(self, step: Step) -> Callable[[], None] | None:
        """Take what a step needs and mark it as running; return what starts its processes, or None where there is no room."""
        need, must_build = need_of(step.spec.resources, self._capacity), self._observer.must_build(step)
        if not self._leases.take(owner_of(step), without_cores(need) if must_build else need, self._capacity):
            return None  # a worker was quicker; the next tick says who
        try:
            drawn = self._with_values(step)
            if drawn is not step and (reuse := self._reuse_of(drawn)) is not None:
                self._leases.release(owner_of(step))
                return reuse
            step = drawn
            key = self._observer.key(step, self._observer.outputs(step.job))
            self.write_key(step, key)
            started = replace(
                _begun(step),
                status=StepStatus.RUNNING,
                attempt=step.attempt + 1,
                cache_key=key_of(key) if step.spec.is_deterministic else "",
                reason=self._observer.why(step, key),
                retry_at=None,
            )
            self._records.steps.update(started)
        except BaseException:
            self._leases.release(owner_of(step))
            raise
        return lambda: self._launch(started, need, must_build)

    def _launch(self, step: Step, held: Resources, must_build: bool) -> None:
        folder = step_folder(self._home, step)
        devices = self._leases.devices(owner_of(step)) if self._capacity.gpus else None
        earlier = self._observer.outputs(step.job)
        try:
            folder.mkdir(parents=True, mode=0o700)
            if must_build:
                StepFolder(folder).without_cores.touch()
            ready = prepare(
                step.spec, folder, earlier, self._artifacts, held, devices, self._home.root / ENVIRONMENTS_FOLDER
            )
            environment, defaults = ready.environment, dict[str, str]()
            if step.memory_budget_mb:
                environment = environment | {MEMORY_BUDGET: str(step.memory_budget_mb)}
            if not step.spec.is_trusted:
                job = self._records.jobs.get(step.job)
                environment = {**self._user_variables(job, step, ready.inputs, ready.outputs), **environment}
                defaults = PASSIVE_WAIT
            command: str | list[str] = ready.command
            if step.spec.placement is not None:
                command = self._on_cluster(step.spec.placement, ready)
                environment |= ray_variables(self._token_of(step.spec.placement.compute))
            processes = step.spec.resources.processes
            self._launcher.start(command, folder, environment, processes, ready.directory, defaults)
        except (MafunzoError, OSError) as error:
            logger.warning("Step %s/%s can't start: %s", step.job, step.name, error)
            self._launcher.kill(folder, self._grace_s)
            self.end(replace(step, error=failure_of(error)), StepStatus.FAILED, "it could not be started")
            clean(folder)
            return
        logger.info("Started %s/%s, attempt %s", step.job, step.name, step.attempt)

    def _on_cluster(self, placement: Placement, ready: Prepared) -> list[str]:
        """Return the command of the process that has a step run on a cluster.

        Raises `NotFound` for one that was deleted since the job was planned, `Conflict` for one of another kind by now.
        """
        compute = self._records.computes.get(placement.compute)
        if not compute.is_ray:
            raise Conflict(
                f"Compute '{compute.name}' was a Ray cluster when the job was planned, and is none any more."
            )
        return driver_command(compute.address, placement, ready.command, ready.variables)

    def _token_of(self, compute: str) -> str:
        return token_of(self._home, compute) or environment_token()

    def _with_values(self, step: Step) -> Step:
        """Return a trial that hasn't run yet with values that those before it suggest, where its sweep asks for that."""
        sweep, steps = sweep_of(self._records.jobs.get(step.job), step, self._records.steps.of(step.job))
        if sweep is None or not is_undrawn(step, sweep):
            return step
        trials = self._observer.trials(sweep, steps)
        values = {name: LiteralInput(value) for name, value in suggest(sweep, trials).items()}
        self._observer.forget(step.job, step.name)
        return replace(step, spec=replace(step.spec, inputs={**step.spec.inputs, **values}))

    def _reuse_of(self, step: Step) -> Callable[[], None] | None:
        """Return what takes over an earlier step's outputs for one whose values have only been drawn, None for none."""
        job = self._records.jobs.get(step.job)
        state = self._observer.reusable(job, step, self._observer.outputs(step.job))
        outputs = state.reusable
        return None if outputs is None else lambda: self.reuse(step, outputs, state.source)

    def take_cores(self, step: Step, folder: StepFolder) -> bool:
        """Return whether a step whose environment is built got its cores; its own time begins then."""
        need = need_of(step.spec.resources, self._capacity)
        if not self._leases.take(owner_of(step), need, self._capacity):
            return False
        self._records.steps.update(_begun(replace(step, started_at=None)))
        folder.without_cores.unlink(missing_ok=True)
        return True

    def collect(self, step: Step) -> None:
        """Store what a step wrote, deliver it, and mark the step as completed, or as failed with what is missing."""
        folder = step_folder(self._home, step)
        self._launcher.kill(folder, self._grace_s)  # what it left running in the background
        try:
            outputs = collect(step.spec, folder, self._artifacts)
            self._observer.damaged -= set(outputs.values())  # storing them has made them whole
            self._deliver_own(step, outputs)
        except (MafunzoError, OSError) as error:
            facts = process_facts(folder, self._launcher.record(folder))
            self.end(replace(step, error=failure_of(error) | facts), StepStatus.FAILED, "its outputs can't be stored")
            self._clean(replace(step, status=StepStatus.FAILED))
            return
        self.end(replace(step, outputs=outputs), StepStatus.COMPLETED, step.reason)
        self._clean(replace(step, status=StepStatus.COMPLETED))
        logger.info("Completed %s/%s", step.job, step.name)

    def _deliver_own(self, step: Step, outputs: Mapping[str, str]) -> None:
        """Deliver the outputs of a step that has ended; of a sweep only the best trial's go anywhere, at its end."""
        if not step.spec.trial_of and self._records.jobs.get(step.job).sweep is None:
            self._deliver(step, outputs)

    def _deliver(self, step: Step, outputs: Mapping[str, str]) -> None:
        """Deliver a step's outputs to their destinations. Idempotent. Raises `Conflict` for a version taken."""
        for output, destination in step.spec.destinations.items():
            deliver(destination, outputs[output], step, output, self._records, self._blobs)

    def reuse(self, step: Step, outputs: Mapping[str, str], source: str) -> None:
        """Take over an earlier step's outputs, if their bytes are what they were; else the step runs, as the next tick sees."""
        with self._artifacts.held():  # nothing is pruned between the look at them and the row that names them
            self._reuse(step, outputs, source)

    def _reuse(self, step: Step, outputs: Mapping[str, str], source: str) -> None:
        faults = {stored: faults for stored in set(outputs.values()) if (faults := self._artifacts.check(stored))}
        if faults:
            for stored, reasons in faults.items():
                logger.error("Artifact %s of %s is damaged: %s", stored, source, "; ".join(reasons[:SHOWN_FAULTS]))
            self._observer.damaged |= set(faults)
            return
        key = self._observer.key(step, self._observer.outputs(step.job))
        self.write_key(step, key)
        reused = replace(_begun(step), cache_key=key_of(key), outputs=outputs)
        try:
            if step.spec.trial_of:
                job, _, name = source.partition("/")
                earlier = next(one for one in self._records.steps.of(job) if one.name == name)
                take_over_metrics(self._home, earlier, step)
            self._deliver_own(step, outputs)
        except MafunzoError as error:
            failed = replace(reused, outputs={}, error=failure_of(error))
            self.end(failed, StepStatus.FAILED, "its outputs can't be delivered")
            return
        self.end(reused, StepStatus.CACHED, f"same as {source}")

    def take_best(self, step: Step, best: Trial) -> None:
        """Complete a sweep's step with the outputs of its best trial, and deliver them."""
        value, metric = best.values[-1], step.spec.sweep.metric if step.spec.sweep else ""
        try:
            self._deliver(step, best.step.outputs)
        except MafunzoError as error:
            self.end(replace(step, error=failure_of(error)), StepStatus.FAILED, "its outputs can't be delivered")
            return
        properties = {BEST_TRIAL: best.step.name, BEST_VALUE: value}
        ended = replace(_begun(step), outputs=best.step.outputs, properties=properties)
        self.end(ended, StepStatus.COMPLETED, f"{best.step.name} did best: {metric} {value:g}")

    def follow(self, step: Step, reason: str) -> None:
        """Write how far the trials of a sweep's step are; its own time begins with the first of them."""
        self._records.steps.update(replace(_begun(step), reason=reason))

    def put_back(self, step: Step, reason: str, retry_at: datetime | None = None) -> None:
        """End what is left of an attempt, and have the step wait for its next one."""
        folder = step_folder(self._home, step)
        self._cut_off(step)
        self._records.steps.update(replace(step, status=StepStatus.WAITING, reason=reason, retry_at=retry_at))
        self._leases.release(owner_of(step))
        clean(folder, keeps_outputs=True)  # the next attempt may go on from what is in them
        logger.info("Step %s/%s will run again: %s", step.job, step.name, reason)

    def fail(self, step: Step, reason: str) -> None:
        """End what is left of a step, and mark it as failed with its own words."""
        folder = step_folder(self._home, step)
        if step.attempt:
            self._cut_off(step)
        error = failure(step, folder, self._launcher.record(folder), reason)
        self.end(replace(step, error=error), StepStatus.FAILED, reason)
        self._clean(replace(step, status=StepStatus.FAILED))
        logger.warning("Step %s/%s failed: %s", step.job, step.name, error["message"])

    def fail_for_space(self, step: Step, size: int) -> None:
        """End a step that has filled the disk, and free what it wrote; it isn't tried again, into the same."""
        folder = step_folder(self._home, step)
        self._launcher.kill(folder, 0.0)
        clean(folder)
        self._space.free_reserve_if_full()
        error = StorageFull(
            f"Step '{step.name}' has filled the disk of {self._home.root}: it had written {megabytes(size)}, which is deleted. "
            f"{self._space.holders()} Free some space, and run the job again."
        )
        facts = process_facts(folder, self._launcher.record(folder))
        self.end(replace(step, error=error.record | facts), StepStatus.FAILED, "it has filled the disk")
        logger.error("%s", error)

    def cancel(self, step: Step, reason: str) -> None:
        """End a step that is no longer wanted."""
        if step.status == StepStatus.RUNNING:
            self._cut_off(step)
        self.end(step, StepStatus.CANCELED, reason)
        self._clean(replace(step, status=StepStatus.CANCELED))

    def _cut_off(self, step: Step) -> None:
        """End the processes of a step that hasn't ended by itself, with time to save what it has."""
        grace_s = self._saving_grace_s if step.spec.is_trusted else self._grace_s
        if (self._home.jobs / step.job / SAVES_FIRST).exists():
            grace_s = max(grace_s, PATIENT_GRACE_S)
        self._launcher.kill(step_folder(self._home, step), grace_s)

    def give_up(self, job: Job, record: Mapping[str, Any]) -> None:
        """Fail a job, and each step of it that hasn't ended."""
        for step in self._records.steps.of(job.name):
            if step.status.is_terminal:
                continue
            if step.attempt:
                self._launcher.kill(step_folder(self._home, step), self._grace_s)
            self.end(replace(step, error=record), StepStatus.FAILED, "its job can't be gone on with")
        self._write_end(replace(job, status=JobStatus.FAILED, error=record, ended_at=_now()))
        self._observer.forget(job.name)

    def finish(self, end: Finish) -> None:
        """Mark a job as ended, with its error, or with the outputs of its best trial."""
        now = self._records.jobs.get(end.job.name)
        job = replace(now, status=end.status, error=_error_of(end), ended_at=_now())
        if end.best is not None:
            job = self._with_best(job, end.best)
        self._write_end(job)
        self._observer.forget(job.name)
        logger.info("Job %s %s", job.name, job.status)

    def _write_end(self, job: Job) -> None:
        """Write that a job has ended, and before it that this is to be told, so that a crash in between loses nothing."""
        if self._outbox is not None:
            self._outbox.put(Notice(job.name))
        self._records.jobs.update(job)

    def _with_best(self, job: Job, best: Trial) -> Job:
        """Return a sweep that has ended with its best trial's outputs as its own; where they can't be delivered, it failed."""
        step = best.step
        outputs = {name: StepOutputInput(step.name, name) for name in step.outputs if name != DEFAULT_OUTPUT}
        properties = {**job.properties, BEST_TRIAL: step.name, BEST_VALUE: best.values[-1]}
        job = replace(job, outputs=outputs, properties=properties)
        if job.status is not JobStatus.COMPLETED:
            return job
        try:
            self._deliver(step, step.outputs)
        except MafunzoError as error:
            return replace(job, status=JobStatus.FAILED, error=failure_of(error))
        return job

    def end(self, step: Step, status: StepStatus, reason: str) -> None:
        """Write the step's end, with its outputs or its error, in one transaction, then give back what it held."""
        self._records.steps.update(replace(step, status=status, reason=reason, ended_at=_now()))
        self._leases.release(owner_of(step))

    def _clean(self, step: Step) -> None:
        """Delete what the attempts of a step that has ended laid out and wrote; logs stay, and what `outputs_stay` says."""
        for folder in (self._home.jobs / step.job / step.name).glob("[0-9]*"):  # 0: of a job that this one goes on with
            clean_or_warn(folder, outputs_stay(step, folder))

    def write_key(self, step: Step, key: Ingredients) -> None:
        """Write what the step's outputs are cached by, beside its attempts."""
        folder = self._home.jobs / step.job / step.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(StepFolder(step_folder(self._home, step)).key, key, indent=1)


def clean_or_warn(folder: Path, keeps_outputs: bool) -> None:
    """Clean an attempt's folder; what can't be deleted of it stops nobody."""
    try:
        clean(folder, keeps_outputs)
    except OSError as error:
        logger.warning("What %s has left can't be deleted: %s", folder, error)


def _error_of(end: Finish) -> dict[str, Any] | None:
    """Return why a job failed: its failed step's error, or its own."""
    if end.reason:
        return failure_of(JobFailed(end.reason))
    if end.failed is None or end.failed.error is None:
        return None
    message = end.failed.error["message"]
    prefix = "" if f"'{end.failed.name}'" in message else f"Step '{end.failed.name}': "
    return {**end.failed.error, "message": f"{prefix}{message}", "step": end.failed.name}


def owner_of(step: Step) -> str:
    """Return the name under which a step holds what it takes of the machine."""
    return f"{OWNER}{step.job}/{step.name}"


def _begun(step: Step) -> Step:
    """Return a step whose own time has begun, now unless it has already."""
    return step if step.started_at is not None else replace(step, started_at=_now(), started_uptime=uptime())


def _now() -> datetime:
    return datetime.now(UTC)
