"""What to do next: a pure function from all jobs that haven't ended to the actions that the scheduler then performs.

Every rule of running jobs is here: order, failure, retries, cancellation, reuse, and who gets the machine first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from mafunzo.control.pipelines.stopping import Trial, best_of, falling_behind
from mafunzo.control.pipelines.sweep import sweeps_of
from mafunzo.entities.backoff import delay_s, is_over
from mafunzo.entities.job import Job, JobStatus, Resources, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.entities.parameters.component import PLANNING
from mafunzo.entities.sweep import Sweep

CUT_OFF_LIMIT = 10
MEMORY_KILL_LIMIT = 3
"""How often a step that the system ended for want of memory is started again with less of it."""
MEMORY_STEP = 0.75
"""How much less: of what it took at its peak when it was ended."""
WAITS = "waits for"  # how the reason of a step that could run but for the machine begins
PAST = {StepStatus.FAILED: "failed", StepStatus.SKIPPED: "was skipped", StepStatus.CANCELED: "was canceled"}
"""How a step ended after which those that take its outputs never run."""
AGAIN = "; starts again in "  # how the reason of a step that waits after a failed attempt (backoff) goes on


class Process(StrEnum):
    """What became of a step's process. `out of memory`: the system ended it for want of memory; `killed`: by SIGKILL or SIGTERM
    from outside; `lost`: gone without a record."""

    NONE = "none"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    KILLED = "killed"
    LOST = "lost"


@dataclass(frozen=True)
class StepState:
    """A step and its observed state.

    process: of its latest attempt, if the step is running. failures, memory_kills, cut_offs: of its attempts up to now.
    peak_memory_mb: the least that an attempt had taken when the system ended it for want of memory.
    reusable: outputs of an earlier step that may be taken over; source says whose.
    is_busy: a thread is at work on it (its inputs are laid out, its outputs stored), so that it's left alone.
    must_build: its environment isn't there yet; it builds it without cores, and gets them afterwards.
    is_overdue: it runs for longer than it may. values: what a trial has logged of its sweep's metric, in order.
    """

    step: Step
    process: Process = Process.NONE
    failures: int = 0
    memory_kills: int = 0
    cut_offs: int = 0
    peak_memory_mb: float = 0.0
    reusable: Mapping[str, str] | None = None
    source: str = ""
    is_busy: bool = False
    is_overdue: bool = False
    values: tuple[float | None, ...] = ()
    must_build: bool = False


@dataclass(frozen=True)
class JobState:
    """A job and its steps, in the order planned. is_overdue: it runs for longer than it may."""

    job: Job
    steps: tuple[StepState, ...]
    is_overdue: bool = False


@dataclass(frozen=True)
class Holder:
    """Who holds a part of the machine."""

    name: str
    resources: Resources


@dataclass(frozen=True)
class State:
    """All jobs that haven't ended, the most urgent first, and who holds what of the machine."""

    jobs: tuple[JobState, ...]
    capacity: Resources
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True)
class Begin:
    """The job's first step was started or reused: the job is running."""

    job: Job


@dataclass(frozen=True)
class OfStep:
    """What is to be done about one step."""

    step: Step


class Start(OfStep):
    """Start the step's next attempt."""


@dataclass(frozen=True)
class Reuse(OfStep):
    """Complete the step with outputs of an earlier one."""

    outputs: Mapping[str, str]
    source: str


@dataclass(frozen=True)
class TakeBest(OfStep):
    """The trials of a sweep have ended: complete its step with the outputs of the best."""

    best: Trial


@dataclass(frozen=True)
class Follow(OfStep):
    """The trials of a sweep's step go on; reason says how far they are, and is new."""

    reason: str


class Collect(OfStep):
    """The process succeeded: store its outputs and complete the step."""


@dataclass(frozen=True)
class Retry(OfStep):
    """Put the step back, to run again, and not before `at`; reason says why."""

    reason: str
    at: datetime


@dataclass(frozen=True)
class Fail(OfStep):
    """Fail the step; an empty reason stands for what its process left behind."""

    reason: str = ""


@dataclass(frozen=True)
class Cancel(OfStep):
    """End the step's processes, if any, and mark it canceled."""

    reason: str


@dataclass(frozen=True)
class Skip(OfStep):
    """The step will never run."""

    reason: str


@dataclass(frozen=True)
class Wait(OfStep):
    """The step could run but for the machine; reason is new."""

    reason: str


@dataclass(frozen=True)
class Finish:
    """Every step has ended: so has the job. failed: the first step that failed. best: a sweep's best trial.

    reason: why it failed, where that isn't a step's failure.
    """

    job: Job
    status: JobStatus
    failed: Step | None = None
    best: Trial | None = None
    reason: str = ""


Action = Begin | Start | Reuse | TakeBest | Follow | Collect | Retry | Fail | Cancel | Skip | Wait | Finish


def decide(state: State, free: Resources, now: datetime) -> list[Action]:
    """Return the next actions; none when there is nothing to do but wait. `free` is the unheld resources."""
    actions: list[Action] = []
    queued = [job.job.name for job in state.jobs if job.job.status == JobStatus.QUEUED]
    left = free
    for job in state.jobs:
        decided = _ended(job) or _on_processes(job, now)
        if not any(isinstance(action, Finish | Fail | Cancel | Skip) for action in decided):
            for step in _startable(job, now):
                action, left = _on_waiting(job, step, left, state, queued)
                decided += [action] if action is not None else []
        if job.job.status == JobStatus.QUEUED and any(step.step.status != StepStatus.WAITING for step in job.steps):
            actions.append(Begin(job.job))
        actions += decided
    return actions


def _ended(job: JobState) -> list[Action]:
    if any(not step.step.status.is_terminal or step.is_busy for step in job.steps):
        return []
    failed = _failed(job)
    if job.job.sweep is not None:
        return [_ended_sweep(job, job.job.sweep, failed)]
    if all(step.step.status.is_done for step in job.steps if not step.step.spec.trial_of):
        return [Finish(job.job, JobStatus.COMPLETED)]
    return [Finish(job.job, JobStatus.CANCELED if job.job.is_cancel_requested else JobStatus.FAILED, failed)]


def _failed(job: JobState) -> Step | None:
    """Return the first step that failed, after which the job can't complete; a trial of a pipeline's sweep is none."""
    failed = (state.step for state in job.steps if state.step.status == StepStatus.FAILED)
    return next((step for step in failed if not step.spec.trial_of), None)


def _ended_sweep(job: JobState, sweep: Sweep, failed: Step | None) -> Finish:
    """Return the end of a sweep: it is done when any of its trials is, and has logged the metric."""
    best = best_of(sweep, _trials(job))
    is_cut_short = job.job.is_cancel_requested or job.is_overdue
    if is_cut_short and not all(state.step.status.is_done for state in job.steps):
        return Finish(job.job, JobStatus.CANCELED, failed, best)
    if best is not None:
        return Finish(job.job, JobStatus.COMPLETED, best=best)
    if any(state.step.status.is_done for state in job.steps):
        return Finish(job.job, JobStatus.FAILED, reason=_unlogged(sweep))
    return Finish(job.job, JobStatus.FAILED, failed)


def _unlogged(sweep: Sweep) -> str:
    return (
        f"No trial logged the metric '{sweep.metric}', or none ended with a number. "
        "Have the command log numbers under just that name."
    )


def _on_processes(job: JobState, now: datetime) -> list[Action]:
    behind: dict[str, str] = {}
    for name, sweep in _sweeps(job).items():
        behind |= falling_behind(sweep, _trials(job, name))
    return [action for step in job.steps if (action := _on_process(job, step, behind, now)) is not None]


def _sweeps(job: JobState) -> dict[str, Sweep]:
    return sweeps_of(job.job, (state.step for state in job.steps))


def _trials(job: JobState, of: str = "") -> list[Trial]:
    """Return the trials of a sweep, by the step that ends it."""
    return [Trial(state.step, state.values) for state in job.steps if state.step.spec.trial_of == of]


def _startable(job: JobState, now: datetime) -> list[StepState]:
    """Return the steps that may start now, of each sweep only as many as may run beside those that do."""
    steps = [state for state in job.steps if not state.step.status.is_terminal and state.step.spec.sweep is None]
    room = {name: sweep.max_parallel for name, sweep in _sweeps(job).items()}
    startable = []
    for state in sorted(steps, key=_is_waiting):  # those that run take their room first
        sweep = state.step.spec.trial_of
        retry_at = state.step.retry_at
        is_due = retry_at is None or is_over((retry_at - now).total_seconds())
        if _is_waiting(state) and not (is_due and room.get(sweep, 1) > 0):
            continue
        if sweep in room:
            room[sweep] -= 1
        if _is_waiting(state):
            startable.append(state)
    return startable


def _is_waiting(state: StepState) -> bool:
    return state.step.status == StepStatus.WAITING and not state.is_busy


def _on_process(job: JobState, state: StepState, behind: Mapping[str, str], now: datetime) -> Action | None:
    """Return what the end of a step's process, of the job or of a step before it asks for; `behind` says which trial loses."""
    step = state.step
    if state.is_busy or step.status.is_terminal:
        return None
    if job.job.is_cancel_requested:
        return Cancel(step, "the job was canceled")
    if job.is_overdue:
        return Cancel(step, "the job ran longer than its limit")
    needed, statuses = upstream(step), {state.step.name: state.step.status for state in job.steps}
    broken = next((name for name, status in statuses.items() if name in needed and status in PAST), None)
    if broken is not None:
        return Skip(step, f"step '{broken}' {PAST[statuses[broken]]}")
    failed = _failed(job)
    if failed is not None and not job.job.continue_on_step_failure:
        return _without(step, f"step '{failed.name}' failed")
    if statuses.get(step.spec.trial_of) in PAST:
        return _without(step, f"step '{step.spec.trial_of}' {PAST[statuses[step.spec.trial_of]]}")
    if step.spec.sweep is not None:
        return _on_sweep(job, state, step.spec.sweep)
    if step.status == StepStatus.WAITING:
        return None
    if step.name in behind and state.process == Process.RUNNING:
        return Cancel(step, behind[step.name])
    return _on_end(state, now)


def _without(step: Step, reason: str) -> Action:
    """Return what becomes of a step that is no longer wanted."""
    return Skip(step, reason) if step.status == StepStatus.WAITING else Cancel(step, reason)


def _on_sweep(job: JobState, state: StepState, sweep: Sweep) -> Action | None:
    """Return what the trials of a sweep's step ask for: it is done when they have ended and any of them is."""
    step, trials = state.step, [other for other in job.steps if other.step.spec.trial_of == state.step.name]
    if state.is_overdue:
        return Fail(step, f"its trials ran longer than its limit of {sweep.timeout_s:g} s")
    ended = [trial for trial in trials if trial.step.status.is_terminal and not trial.is_busy]
    if len(ended) < len(trials):
        reason = f"{len(ended)} of {len(trials)} trials have ended"
        has_begun = any(trial.step.status != StepStatus.WAITING for trial in trials)
        return Follow(step, reason) if has_begun and reason != step.reason else None
    best = best_of(sweep, _trials(job, step.name))
    if best is not None:
        return TakeBest(step, best)
    if any(trial.step.status.is_done for trial in trials):
        return Fail(step, _unlogged(sweep))
    failed = next((trial.step for trial in trials if trial.step.status == StepStatus.FAILED), trials[0].step)
    return Fail(step, f"no trial is done. Trial '{failed.name}': {(failed.error or {}).get('message', failed.reason)}")


def _on_end(state: StepState, now: datetime) -> Action | None:
    step = state.step
    match state.process:
        case Process.SUCCEEDED:
            return Collect(step)
        case Process.RUNNING if state.is_overdue:
            return Fail(step, f"it ran longer than its limit of {step.spec.timeout_s:g} s")
        case Process.OUT_OF_MEMORY if keeps_to_budget(step.spec):
            return _on_memory_kill(state, now)
        case Process.FAILED | Process.OUT_OF_MEMORY if (failures := _failures(state)) <= step.spec.retries:
            reason = f"attempt {step.attempt} failed; retry {failures} of {step.spec.retries}"
            return _retry(step, reason, failures, now)
        case Process.FAILED | Process.OUT_OF_MEMORY:
            return Fail(step)
        case Process.KILLED | Process.LOST if state.cut_offs <= CUT_OFF_LIMIT:
            return _retry(step, f"attempt {step.attempt} was cut off", state.cut_offs, now)
        case Process.KILLED | Process.LOST:
            return Fail(step, f"it was cut off {state.cut_offs} times")
    return None


def keeps_to_budget(spec: StepSpec) -> bool:
    """Return whether a step keeps to a memory budget of the machine; on a GPU its plan is about the GPU's memory."""
    return spec.is_trusted and spec.component.partition(":")[0] in PLANNING and not spec.resources.gpus


def _failures(state: StepState) -> int:
    return state.failures + (0 if keeps_to_budget(state.step.spec) else state.memory_kills)


def _on_memory_kill(state: StepState, now: datetime) -> Action:
    """Return what becomes of a step that the system ended for want of memory, and that can do with less of it."""
    step = state.step
    processes = max(1, step.spec.resources.processes)
    budget_mb = max(1, int(MEMORY_STEP * state.peak_memory_mb / processes))
    if state.memory_kills > MEMORY_KILL_LIMIT:
        return Fail(
            step,
            f"the system ended it {state.memory_kills} times because memory ran out, at the last with "
            f"{step.memory_budget_mb:,} MB for each process. End other work, raise the container's memory limit, or lower "
            "max_seq_length, lora_r or the size of the model",
        )
    reason = (
        f"attempt {step.attempt} was ended by the system because memory ran out, at {state.peak_memory_mb:,.0f} MB; it goes on "
        f"from its newest checkpoint with {budget_mb:,} MB for each process ({state.memory_kills} of {MEMORY_KILL_LIMIT} times)"
    )
    return _retry(replace(step, memory_budget_mb=budget_mb), reason, state.memory_kills, now)


def _retry(step: Step, reason: str, attempts: int, now: datetime) -> Retry:
    """Return the retry of a step of which so many attempts have ended like the last one: each waits longer."""
    wait_s = delay_s(attempts)
    return Retry(step, f"{reason}{AGAIN}{wait_s:g} s" if wait_s else reason, now + timedelta(seconds=wait_s))


def _on_waiting(
    job: JobState, state: StepState, left: Resources, all_jobs: State, queued: Sequence[str]
) -> tuple[Action | None, Resources]:
    """Return what to do with a step that hasn't started, and what is left of the machine for those behind it.

    A step that doesn't fit keeps its place: what it needs is taken off what is left, so that none behind it overtakes it.
    """
    step, need = state.step, need_of(state.step.spec.resources, all_jobs.capacity)
    if not upstream(step) <= {other.step.name for other in job.steps if other.step.status.is_done}:
        return None, left
    if state.reusable is not None:
        return Reuse(step, state.reusable, state.source), left
    if not need.fits(all_jobs.capacity):
        return Fail(step, f"it needs {_text(need)}, this machine has {_text(all_jobs.capacity)}"), left
    need = without_cores(need) if state.must_build else need
    after = left.minus(need)
    if need.fits(left):
        return Start(step), after
    holders = ", ".join(f"{holder.name} holds {_text(holder.resources)}" for holder in all_jobs.holders)
    reason = f"{WAITS} {_text(need)}" + (f"; {holders}" if holders else "")
    if job.job.name in queued:
        reason += f"; position {queued.index(job.job.name) + 1} in the queue"
    return (Wait(step, reason) if reason != step.reason else None), after


def upstream(step: Step) -> set[str]:
    """Return the steps whose outputs a step takes."""
    return {source.step for source in step.spec.inputs.values() if isinstance(source, StepOutputInput)}


def need_of(resources: Resources, capacity: Resources) -> Resources:
    """Return a step's resources: all cores for 0, and never more than there are."""
    cpus = min(resources.cpus, capacity.cpus) or capacity.cpus
    return Resources(cpus, resources.gpus, resources.memory_mb, resources.processes)


def without_cores(resources: Resources) -> Resources:
    """Return what a step holds while its environment is built, which takes the network's time: all but its cores."""
    return replace(resources, cpus=0)


def _text(resources: Resources) -> str:
    parts = [f"{resources.cpus} core{'s' if resources.cpus != 1 else ''}"] if resources.cpus else ["no cores"]
    parts += [f"{resources.gpus} GPU{'s' if resources.gpus != 1 else ''}"] if resources.gpus else []
    parts += [f"{resources.memory_mb} MB"] if resources.memory_mb else []
    return ", ".join(parts)
