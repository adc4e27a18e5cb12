"""What a run has logged with MLflow, files and models, which lie in the home's folder `mlflow`, as files that are stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mafunzo.control.workspace.services import Services

_MODELS = (
    "SELECT name, model_id FROM logged_models WHERE source_run_id = ? AND lifecycle_stage = 'active' ORDER BY rowid"
)


def logged_files(services: Services, run_id: str) -> dict[str, tuple[str, str]]:
    """Store what a run has logged; return its paths to (artifact, path in it). A model's files lie in a folder of its name.

    Of two models that were logged under one name, the later one counts.
    """
    files: dict[str, tuple[str, str]] = {}
    for prefix, folder in _folders(services.home.root / "mlflow", run_id):
        stored = services.artifacts.put(folder)
        files |= {f"{prefix}{file.path}": (stored, file.path) for file in services.artifacts.manifest(stored)}
    return files


def _folders(root: Path, run_id: str) -> Iterator[tuple[str, Path]]:
    """Yield each folder that a run has logged into, and where it belongs among the run's files."""
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
