"""The training step of a job, up to its end."""

from contextlib import suppress

from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.entities.job import Step, StepStatus
from mafunzo.errors import JobCanceled
from tests.support.waiting import LIMIT_S, until


def trained(job: JobHandle) -> Step:
    return next(step for step in job.steps if step.name == "finetune")


def end_after_training(job: JobHandle) -> None:
    """Wait for the training's end, and end the job there: what comes after it isn't looked at."""
    until(lambda: trained(job).status is StepStatus.COMPLETED or job.status.is_terminal, lambda: job.logs("finetune"))
    assert trained(job).status is StepStatus.COMPLETED, job.logs("finetune")
    job.cancel()
    with suppress(JobCanceled):
        job.wait(timeout_s=LIMIT_S)
