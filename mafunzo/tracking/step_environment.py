"""MLflow for a user's own step: the id of its run, and the environment variables that make `mlflow` log there."""

import hashlib
import re
from urllib.parse import urlsplit, urlunsplit

_RUN_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}")


def job_run_id(job: str) -> str:
    """Return the id of a job's run: its name, as on Azure, so that `mlflow.get_run(job.name)` finds it."""
    return job if _RUN_ID.fullmatch(job) else _digest(job)


def step_run_id(job: str, step: str, attempt: int, is_alone: bool) -> str:
    """Return the id of the run that an attempt of a user's step logs into.

    is_alone: the job has no other step; then the job's own run is the step's too.
    """
    return job_run_id(job) if is_alone else _digest(f"{job}/{step}/{attempt}")


def mlflow_variables(uri: str, experiment: str, run_id: str) -> dict[str, str]:
    """Return the environment for stock `mlflow` to log into the run `run_id`; `uri` has the key as its password.

    The key gets a variable of its own, so that a script that prints its tracking URI doesn't print the key.
    """
    parts = urlsplit(uri)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return {
        "MLFLOW_TRACKING_URI": plain,
        "MLFLOW_TRACKING_TOKEN": parts.password or "",
        "MLFLOW_EXPERIMENT_NAME": experiment,
        "MLFLOW_RUN_ID": run_id,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
