"""Estimates of fine-tuning runs: read, kept with the run that they were of, and compared with what it then took."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from mafunzo.control.store.codec import encode
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.control.workspace.services import Services
from mafunzo.entities.estimate import Estimate, Scoreboard, error_share, scoreboard_of
from mafunzo.entities.job import Job, JobStatus, Step, StepStatus
from mafunzo.entities.scan import PAGE, Scan
from mafunzo.errors import ArtifactCorrupt, NotFound
from mafunzo.tracking.metrics import read_metrics
from mafunzo.tracking.step_folder import StepFolder

OUTPUT, FILE = "estimate", "estimate.json"
TRAINED_BY, ESTIMATED_BY = "finetune", "estimate"
"""The steps that train, and that estimate; they have the same inputs."""
CONFIGURATION, ESTIMATE = "configuration", "estimate"
"""Properties of a job: the hash of all that its training follows from, and what was estimated for it before."""
MEASURED = ("train_runtime", "peak_memory_bytes")


def read_estimate(services: Services, job: JobHandle) -> Estimate:
    """Return what a job has estimated, with the price of an hour as it is now. Raises `NotFound`, or why the job has none."""
    file = services.artifacts.open_file(job.output_artifact(OUTPUT), FILE)
    estimate = Estimate.from_dict(json.loads(file.read_text(encoding="utf-8")))
    placements = [step.spec.placement for step in job.steps if _name(step) == ESTIMATED_BY]
    compute = next((placement.compute for placement in placements if placement is not None), "")
    return replace(estimate.at(services.price_per_hour), compute=compute)


def with_estimate(services: Services, job: Job, steps: Sequence[Step]) -> Job:
    """Return a job that trains or estimates with its configuration, and one that trains with its newest estimate, if any."""
    key = configuration(steps)
    if not key:
        return job
    properties: dict[str, Any] = {**job.properties, CONFIGURATION: key}
    if any(_name(step) == TRAINED_BY for step in steps) and (estimate := _newest_estimate(services, key)):
        properties[ESTIMATE] = estimate
    return replace(job, properties=properties)


def configuration(steps: Sequence[Step]) -> str:
    """Return a hash of what a training step and those before it are given, and of the cluster that it runs on, if it does.

    An empty text where there is none, or several.
    """
    ends = [index for index, step in enumerate(steps) if _name(step) in (TRAINED_BY, ESTIMATED_BY)]
    if len(ends) != 1:
        return ""
    inputs: list[Any] = [encode(step.spec.inputs) for step in steps[: ends[0] + 1]]
    if (placement := steps[ends[0]].spec.placement) is not None:
        inputs.append(encode(placement))
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _name(step: Step) -> str:
    """Return the name of the component that a step runs, if it is one that ships."""
    return step.spec.component.partition(":")[0] if step.spec.is_trusted else ""


def _newest_estimate(services: Services, key: str) -> dict[str, Any] | None:
    job = services.records.jobs.newest_with(ESTIMATED_BY, CONFIGURATION, key)
    if job is None:
        return None
    try:
        estimate = read_estimate(services, JobHandle(services, job.name))
    except (NotFound, ArtifactCorrupt):  # pruned, or damaged: the run has no estimate then
        return None
    return {
        "job": job.name,
        "time_s": asdict(estimate.time_s),
        "memory_bytes": asdict(estimate.memory_bytes),
    }


def scoreboard(services: Services) -> Scoreboard:
    """Return how far estimates were from what past runs then took; runs are read page by page."""
    errors, left_out = list[tuple[float, float]](), 0
    for job, steps in _completed(services):
        trained = [step for step in steps if _name(step) == TRAINED_BY]
        if [step.status for step in trained] != [StepStatus.COMPLETED]:
            continue  # taken from the cache, or another kind of job
        estimate = job.properties.get(ESTIMATE)
        measured = _measured(services, trained[0])
        if not estimate or len(measured) < len(MEASURED):
            left_out += 1
            continue
        time_error = error_share(estimate["time_s"]["expected"], measured["train_runtime"])
        errors.append((time_error, error_share(estimate["memory_bytes"]["expected"], measured["peak_memory_bytes"])))
    return scoreboard_of(errors, left_out)


def _completed(services: Services) -> Iterator[tuple[Job, list[Step]]]:
    scan = services.records.jobs.scan(Scan())
    completed = (job for _, job in scan if job.status is JobStatus.COMPLETED)
    while jobs := list(islice(completed, PAGE)):
        steps = services.records.steps.of_each(job.name for job in jobs)
        yield from ((job, steps[job.name]) for job in jobs)


def _measured(services: Services, step: Step) -> Mapping[str, float]:
    """Return what a training step has measured of itself, which its metrics have; less where they lack it."""
    folder = StepFolder.of(services.home.jobs, step.job, step.name, step.attempt)
    measured: dict[str, float] = {}
    for line in read_metrics(folder.metrics):
        measured |= {name: line[name] for name in MEASURED if line.get(name)}
    return measured
