"""The run of a user's step: how `mlflow` in the step finds it, and the folders of the home that it has logged into."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

_MODELS = (
    "SELECT name, model_id FROM logged_models WHERE source_run_id = ? AND lifecycle_stage = 'active' ORDER BY rowid"
)

_RUNS = (
    "SELECT runs.run_uuid, tags.value FROM runs "
    "LEFT JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = 'mafunzo.key'"
)
_LOGGED_MODELS = "SELECT model_id, source_run_id FROM logged_models"


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


def run_folders(home: Path) -> Iterator[tuple[str, Path]]:
    """Yield the folders of what jobs' runs have logged, and of their models, after the job; see `tracking.run.RunFolders`."""
    root = home / "mlflow"
    database = root / "mlflow.db"
    if not database.exists():
        return
    jobs = {run: (key or "").partition("/")[0] for run, key in _rows(database, _RUNS)}
    origins = dict(_rows(database, _LOGGED_MODELS))
    for folder in sorted(path.parent for path in (root / "artifacts").glob("*/*/artifacts")):
        if jobs.get(folder.name) or folder.name not in jobs:
            yield jobs.get(folder.name, ""), folder
    for folder in sorted((root / "artifacts").glob("*/models/*")):
        run = origins.get(folder.name, "gone")
        if run and (jobs.get(run) or run not in jobs):
            yield jobs.get(run, ""), folder


def _models(database: Path, run_id: str) -> list[tuple[str, str]]:
    return _rows(database, _MODELS, run_id) if database.exists() else []


def _rows(database: Path, query: str, *values: str) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()
