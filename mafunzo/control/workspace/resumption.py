"""Going on with a job that has ended early, as a new job: what was done is reused, and checkpoints are gone on from.

The new job is the ended one once more, from its own rows and not from the files and values that it was made of, which may
have changed since. Steps that were done come from the cache. Of the others the checkpoints lie ready as an attempt before the
first, where the new job's first attempt looks for what those before it have left. The trials of a sweep that have ended with a
value of its metric are the new job's as they are; those that were open begin with the values that they had.
"""

import dataclasses
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from mafunzo.control.pipelines.attempt import last_folder, logged_values, take_over_metrics
from mafunzo.control.pipelines.stopping import WORSE
from mafunzo.control.pipelines.sweep import sweep_of
from mafunzo.control.workspace.components import Components
from mafunzo.control.workspace.services import Services
from mafunzo.entities.job import Job, JobStatus, Step, StepStatus
from mafunzo.entities.pruning import PruneKind, pruned_at
from mafunzo.entities.sweep import DRAWN, Sweep
from mafunzo.errors import Conflict, NotFound, NotSupported
from mafunzo.tracking.step_folder import StepFolder

RESUMED_FROM = "resumed_from"
"""The property of a job that names the one that it goes on with."""
BEFORE_THE_FIRST = 0
"""The attempt whose folder holds what an earlier job's step has left."""


def resumed(services: Services, name: str) -> tuple[Job, list[Step]]:
    """Return a new job that goes on with an ended one, and its steps; nothing is written.

    Raises `Conflict`, and `NotSupported` for a step of a component that isn't there any more.
    """
    job = services.records.jobs.get(name)
    if not job.status.is_terminal:
        raise Conflict(f"Job {name} is {job.status} and goes on by itself. Follow it: mafunzo job stream {name}")
    if job.status is JobStatus.COMPLETED:
        raise Conflict(f"Job {name} has completed: there is nothing to go on with. Submit a new job for other values.")
    new = Job(
        name=f"{name[:240]}-{secrets.token_hex(4)}",
        display_name=job.display_name,
        experiment=job.experiment,
        component=job.component,
        inputs=job.inputs,
        outputs={} if job.sweep else job.outputs,  # a sweep's are those of its best trial
        priority=job.priority,
        continue_on_step_failure=job.continue_on_step_failure,
        tags=job.tags,
        properties={RESUMED_FROM: name},
        sweep=job.sweep,
        created_by=services.user,
        description=job.description,
        user_properties=job.user_properties,
        echoes=job.echoes,
    )
    ended = services.records.steps.of(name)
    steps = [_once_more(services, new, job, step, ended) for step in ended]
    moment, exists = pruned_at(job, PruneKind.ARTIFACTS), services.artifacts.exists
    if moment and not all(exists(artifact) for step in steps for artifact in step.spec.artifacts):
        raise Conflict(
            f"Job {name} can't be gone on with: its inputs were pruned on {moment:%Y-%m-%d}. Submit a new job with its files."
        )
    return new, steps


def _once_more(services: Services, new: Job, job: Job, step: Step, steps: Sequence[Step]) -> Step:
    """Return the new job's step for one of the ended job's `steps`."""
    sweep, _ = sweep_of(job, step, steps)
    if sweep is None:
        return Step(new.name, _as_now(services, step).spec)
    if _is_kept(services, step, sweep):
        status, source = StepStatus.CACHED if step.status.is_done else step.status, f"same as {step.job}/{step.name}"
        reason = source if step.status.is_done else step.reason
        return dataclasses.replace(step, job=new.name, status=status, attempt=0, reason=reason, retry_at=None)
    has_values = step.attempt or step.properties.get(DRAWN)
    return Step(new.name, _as_now(services, step).spec, properties={DRAWN: True} if has_values else {})


def _is_kept(services: Services, trial: Step, sweep: Sweep) -> bool:
    """Return whether a trial has ended as it was to, with a value: it was done, and is whole, or it fell behind."""
    if not logged_values(last_folder(services.home, trial), sweep.metric):
        return False
    if trial.status is StepStatus.CANCELED:
        return WORSE in trial.reason
    return trial.status.is_done and not any(services.artifacts.check(stored) for stored in trial.outputs.values())


def take_over_trials(services: Services, name: str, steps: Iterable[Step]) -> None:
    """Let those of a new job's steps that have ended already show what the steps of job `name` have logged."""
    sources = {step.name: step for step in services.records.steps.of(name)}
    for step in steps:
        if step.status.is_terminal:
            take_over_metrics(services.home, sources[step.name], step)


def take_over_checkpoints(services: Services, name: str, new: Job) -> dict[str, int]:
    """Have the new job's steps find the checkpoints of those of job `name`; return the newest's step, by the job's step.

    The bytes aren't copied if they needn't: no file of a checkpoint is ever changed.
    """
    newest: dict[str, int] = {}
    for step in services.records.steps.of(name):
        place = StepFolder.of(services.home.jobs, new.name, step.name, BEFORE_THE_FIRST)
        if step.status.is_done or not step.spec.is_trusted:  # a user's own step wouldn't look for any
            continue
        for attempt in sorted(_attempts(services, step), key=lambda path: -int(path.name)):
            for checkpoint in StepFolder(attempt).checkpoints:
                target = place.outputs / checkpoint.relative_to(StepFolder(attempt).outputs)
                if not target.exists():
                    shutil.copytree(checkpoint, target, copy_function=_link_or_copy)
                newest[step.name] = max(newest.get(step.name, 0), int(checkpoint.name.rpartition("-")[2]))
    return newest


def _attempts(services: Services, step: Step) -> list[Path]:
    parent = StepFolder.of(services.home.jobs, step.job, step.name, BEFORE_THE_FIRST).path.parent
    return [path for path in parent.glob("*") if path.name.isdigit()]


def _as_now(services: Services, step: Step) -> Step:
    """Return a step that says which code it runs, where that is ours: the one that is installed now."""
    if not step.spec.is_trusted:
        return step
    try:
        pinned = Components(services).pin(step.spec.component.partition(":")[0])
    except NotFound as error:
        raise NotSupported(f"Step '{step.name}' is of a component that this version hasn't: {error.message}") from error
    return dataclasses.replace(step, spec=dataclasses.replace(step.spec, code=pinned.code))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
