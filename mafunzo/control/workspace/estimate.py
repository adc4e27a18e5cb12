"""Estimates of fine-tuning runs."""

import json

from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.control.workspace.services import Services
from mafunzo.entities.estimate import Estimate

OUTPUT, FILE = "estimate", "estimate.json"


def read_estimate(services: Services, job: JobHandle) -> Estimate:
    """Return what a job has estimated, with the price of an hour as it is now. Raises `NotFound`, or why the job has none."""
    file = services.artifacts.open_file(job.output_artifact(OUTPUT), FILE)
    estimate = Estimate.from_dict(json.loads(file.read_text(encoding="utf-8")))
    return estimate.at(services.price_per_hour)
