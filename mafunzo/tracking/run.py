"""The ids of the runs that users' own steps log into: known before a step begins."""

import hashlib
import re

_RUN_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}")


def job_run_id(job: str) -> str:
    """Return the id of a job's run: its name, by which people look for it, where that can be an id."""
    return job if _RUN_ID.fullmatch(job) else _digest(job)


def step_run_id(job: str, step: str, attempt: int, is_alone: bool) -> str:
    """Return the id of the run that an attempt of a user's step logs into.

    is_alone: the job has no other step; then the job's own run is the step's too.
    """
    return job_run_id(job) if is_alone else _digest(f"{job}/{step}/{attempt}")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
