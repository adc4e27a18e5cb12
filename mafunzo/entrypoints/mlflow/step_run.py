"""The run of a user's step: how `mlflow` in the step finds it, and the folders of the home that it has logged into."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

_MODELS = (
    "SELECT name, model_id FROM logged_models WHERE source_run_id = ? AND lifecycle_stage = 'active' ORDER BY rowid"
)


def step_variables(uri: str, key: str, experiment: str, run_id: str) -> dict[str, str]:
    """Return the environment for stock `mlflow` to log into the run `run_id` at `uri`.

    The key has a variable of its own, so that a script that prints its tracking URI doesn't print the key.
    """
    return {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_TRACKING_TOKEN": key,
        "MLFLOW_EXPERIMENT_NAME": experiment,
        "MLFLOW_RUN_ID": run_id,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def logged_folders(home: Path, run_id: str) -> Iterator[tuple[str, Path]]:
    """Yield where files belong among those of a run, and the folder of them that the run has logged.

    A model's files lie in a folder of its name. Of two models that were logged under one name, the later one comes last.
    """
    root = home / "mlflow"
    for folder in (root / "artifacts").glob("*"):
        if (own := folder / run_id / "artifacts").is_dir():
            yield "", own
    for name, model in _models(root / "mlflow.db", run_id):
        for folder in (root / "artifacts").glob(f"*/models/{model}/artifacts"):
            yield f"{name}/", folder


def _models(database: Path, run_id: str) -> list[tuple[str, str]]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(_MODELS, (run_id,)).fetchall()
