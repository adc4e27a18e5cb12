"""The environment variables by which `mlflow` in a user's step logs into the step's own run."""

from urllib.parse import urlsplit, urlunsplit


def step_variables(uri: str, experiment: str, run_id: str) -> dict[str, str]:
    """Return the environment for stock `mlflow` to log into the run `run_id`; `uri` has the key as its password.

    The key gets a variable of its own, so that a script that prints its tracking URI doesn't print the key.
    """
    parts = urlsplit(uri)
    return {
        "MLFLOW_TRACKING_URI": urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])),
        "MLFLOW_TRACKING_TOKEN": parts.password or "",
        "MLFLOW_EXPERIMENT_NAME": experiment,
        "MLFLOW_RUN_ID": run_id,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
