"""Going on with a job that has ended early, as a new job: what was done is reused, and checkpoints are gone on from.

The new job is the ended one once more, from its own rows and not from the files and values that it was made of, which may
have changed since. Steps that were done come from the cache. Of the others the checkpoints lie ready as an attempt before the
first, where the new job's first attempt looks for what those before it have left. The trials of a sweep that have ended with a
value of its metric are the new job's as they are; those that were open begin with the values that they had.

A few parameters of training may be given anew: more epochs, say. So a job that has completed can be gone on with too, from the
checkpoints that are stored with its model.
"""

import dataclasses
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mafunzo.control.pipelines.attempt import last_folder, logged_values, take_over_metrics
from mafunzo.control.pipelines.stopping import WORSE
from mafunzo.control.pipelines.sweep import sweep_of
from mafunzo.control.workspace.components import Components
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.shipped_component import shipped
from mafunzo.entities.component import parse_value
from mafunzo.entities.job import Job, JobStatus, LiteralInput, Step, StepStatus, Value
from mafunzo.entities.parameters.constraint import faults_between
from mafunzo.entities.parameters.finetune import FREE_ON_RESUME, NEW_ON_RESUME
from mafunzo.entities.parameters.parameter import FINETUNE, typed
from mafunzo.entities.parameters.table import DEFAULTS, PARAMETERS
from mafunzo.entities.pruning import PruneKind, pruned_at
from mafunzo.entities.sweep import DRAWN, Sweep
from mafunzo.errors import Conflict, Faults, InvalidParameter, NotFound, NotSupported
from mafunzo.tracking.step_folder import StepFolder

RESUMED_FROM = "resumed_from"
"""The property of a job that names the one that it goes on with."""
CHANGEABLE = (*NEW_ON_RESUME, *FREE_ON_RESUME)
"""The parameters of training that may be others when it is gone on with."""
BEFORE_THE_FIRST = 0
"""The attempt whose folder holds what an earlier job's step has left."""


def resumed(services: Services, name: str, changes: Mapping[str, Any] | None = None) -> tuple[Job, list[Step]]:
    """Return a new job that goes on with an ended one, and its steps; nothing is written.

    changes: parameters of training that are to be others, by any of their names.
    Raises `Conflict`, `InvalidParameter` for what can't be changed, and `NotSupported` for a step of a component that isn't
    there any more.
    """
    job = services.records.jobs.get(name)
    if not job.status.is_terminal:
        raise Conflict(f"Job {name} is {job.status} and goes on by itself. Follow it: mafunzo job stream {name}")
    ended = services.records.steps.of(name)
    values = _new_values(job, ended, changes or {})
    if job.status is JobStatus.COMPLETED and not set(values) & set(NEW_ON_RESUME):
        raise Conflict(
            f"Job {name} has completed: there is nothing to go on with. Give more epochs or steps (num_train_epochs=N, "
            "max_steps=N), or submit a new job for other values."
        )
    new = Job(
        name=f"{name[:240]}-{secrets.token_hex(4)}",
        display_name=job.display_name,
        experiment=job.experiment,
        component=job.component,
        inputs={**job.inputs, **values},
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
    steps = [_with(_once_more(services, new, job, step, ended), values) for step in ended]
    moment, exists = pruned_at(job, PruneKind.ARTIFACTS), services.artifacts.exists
    if moment and not all(exists(artifact) for step in steps for artifact in step.spec.artifacts):
        raise Conflict(
            f"Job {name} can't be gone on with: its inputs were pruned on {moment:%Y-%m-%d}. Submit a new job with its files."
        )
    return new, steps


def _new_values(job: Job, steps: Sequence[Step], changes: Mapping[str, Any]) -> dict[str, Value]:
    """Return the parameters that become others, by their own names as their types; raises all faults of `changes` at once."""
    faults, trainings = Faults(), [step for step in steps if _trains(step)]
    if changes and not trainings:
        raise InvalidParameter(f"Job {job.name} has no training step, whose parameters alone can be changed.")
    if changes and (job.sweep or any(step.spec.sweep or step.spec.trial_of for step in steps)):
        raise InvalidParameter(f"The values of job {job.name} are those of a sweep's trials, and can't be changed.")
    values: dict[str, Value] = {}
    for given, raw in changes.items():
        parameter = _parameter(given)
        if parameter is None:
            faults.add(f"{given} can't be changed.")
            continue
        value, fault = parse_value(shipped(FINETUNE).component.inputs[parameter], raw)
        faults.add(fault, f"{parameter} is given twice. Keep one." if parameter in values else "")
        values |= {} if value is None else {parameter: value}
    for step in trainings if not faults else ():
        faults.add(*_faults_with(step, values))
    faults.require_none(f"Job {job.name} can't go on so. What may change: {', '.join(CHANGEABLE)}.", InvalidParameter)
    return {name: value for name, value in values.items() if any(_value(step, name) != value for step in trainings)}


def _parameter(name: str) -> str | None:
    """Return the parameter that has this name, or alias, if it may be another."""
    return next((own for own in CHANGEABLE if name == own or name in PARAMETERS[own].aliases), None)


def _faults_with(step: Step, values: Mapping[str, Value]) -> list[str]:
    """Return what doesn't hold between a training step's parameters once they have these values."""
    literals = {name: value for name, value in {**step.spec.literals, **values}.items() if name in PARAMETERS}
    every = {**DEFAULTS, **{name: typed(PARAMETERS[name], value) for name, value in literals.items()}}
    faults = faults_between(every)
    if "num_train_epochs" in values and every["max_steps"] > 0:
        faults.append(
            f"num_train_epochs is {values['num_train_epochs']} while max_steps is {every['max_steps']}, which decides. Change "
            "max_steps, or set it to -1 as well."
        )
    return faults


def _trains(step: Step) -> bool:
    return step.spec.is_trusted and step.spec.component.partition(":")[0] == FINETUNE


def _value(step: Step, name: str) -> Any:
    return step.spec.literals.get(name, PARAMETERS[name].default)


def _with(step: Step, values: Mapping[str, Value]) -> Step:
    """Return a step with other values, where it is one of training."""
    if not values or not _trains(step):
        return step
    inputs = {**step.spec.inputs, **{name: LiteralInput(value) for name, value in values.items()}}
    return dataclasses.replace(step, spec=dataclasses.replace(step.spec, inputs=inputs))


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


def take_over_checkpoints(services: Services, name: str, new: Job, is_changed: bool = False) -> dict[str, int]:
    """Have the new job's steps find the checkpoints of those of job `name`; return the newest's step, by the job's step.

    is_changed: whether training has other values, so that it goes on also where it was done, from what is stored with its
    model.
    The bytes aren't copied if they needn't: no file of a checkpoint is ever changed.
    """
    newest: dict[str, int] = {}
    for step in services.records.steps.of(name):
        place = StepFolder.of(services.home.jobs, new.name, step.name, BEFORE_THE_FIRST)
        goes_on = step.status.is_done and is_changed and _trains(step)
        if goes_on and (number := _take_over_stored(services, step, place)):
            newest[step.name] = number
        if step.status.is_done or not step.spec.is_trusted:  # a user's own step wouldn't look for any
            continue
        for attempt in sorted(_attempts(services, step), key=lambda path: -int(path.name)):
            for checkpoint in StepFolder(attempt).checkpoints:
                target = place.outputs / checkpoint.relative_to(StepFolder(attempt).outputs)
                if not target.exists():
                    shutil.copytree(checkpoint, target, copy_function=_link_or_copy)
                newest[step.name] = max(newest.get(step.name, 0), int(checkpoint.name.rpartition("-")[2]))
    return newest


def _take_over_stored(services: Services, step: Step, place: StepFolder) -> int:
    """Lay out the checkpoints that are stored with a training step's outputs; return the step of the newest, or 0."""
    newest = 0
    for name, artifact in step.outputs.items():
        folder = services.artifacts.checkout(artifact, place.outputs / name)
        for path in folder.iterdir():
            if path.is_dir() and path.name.startswith("checkpoint-"):
                newest = max(newest, int(path.name.rpartition("-")[2]))
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
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
