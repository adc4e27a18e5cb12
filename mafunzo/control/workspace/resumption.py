"""Going on with a job that has ended early, as a new job: what was done is reused, and checkpoints are gone on from.

The new job is the ended one once more, from its own rows and not from the files and values that it was made of, which may
have changed since. Steps that were done come from the cache. Of the others the checkpoints lie ready as an attempt before the
first, where the new job's first attempt looks for what those before it have left.
"""

import dataclasses
import os
import secrets
import shutil
from pathlib import Path

from mafunzo.control.workspace.components import Components
from mafunzo.control.workspace.services import Services
from mafunzo.entities.job import Job, JobStatus, Step
from mafunzo.entities.pruning import PruneKind, pruned_at
from mafunzo.errors import Conflict, NotFound, NotSupported
from mafunzo.tracking.step_folder import StepFolder

RESUMED_FROM = "resumed_from"
"""The property of a job that names the one that it goes on with."""
BEFORE_THE_FIRST = 0
"""The attempt whose folder holds what an earlier job's step has left."""


def resumed(services: Services, name: str) -> tuple[Job, list[Step]]:
    """Return a new job that goes on with an ended one, and its steps; nothing is written. Raises `Conflict`, `NotSupported`."""
    job = services.records.jobs.get(name)
    if not job.status.is_terminal:
        raise Conflict(f"Job {name} is {job.status} and goes on by itself. Follow it: mafunzo job stream {name}")
    if job.status is JobStatus.COMPLETED:
        raise Conflict(f"Job {name} has completed: there is nothing to go on with. Submit a new job for other values.")
    if job.sweep is not None:
        raise NotSupported(
            f"Job {name} is a sweep, which can't be gone on with. Submit it again; its values may differ."
        )
    new = Job(
        name=f"{name[:240]}-{secrets.token_hex(4)}",
        display_name=job.display_name,
        experiment=job.experiment,
        component=job.component,
        inputs=job.inputs,
        outputs=job.outputs,
        priority=job.priority,
        continue_on_step_failure=job.continue_on_step_failure,
        tags=job.tags,
        properties={RESUMED_FROM: name},
        created_by=services.user,
        description=job.description,
        user_properties=job.user_properties,
    )
    steps = [Step(new.name, _as_now(services, step).spec) for step in services.records.steps.of(name)]
    moment, exists = pruned_at(job, PruneKind.ARTIFACTS), services.artifacts.exists
    if moment and not all(exists(artifact) for step in steps for artifact in step.spec.artifacts):
        raise Conflict(
            f"Job {name} can't be gone on with: its inputs were pruned on {moment:%Y-%m-%d}. Submit a new job with its files."
        )
    return new, steps


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
