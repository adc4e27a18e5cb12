"""Tests of `mafunzo.entrypoints.mlflow.step_run`: how a step finds its run, and what it has logged, in the home's folder `mlflow`."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entrypoints.mlflow.step_run import logged_folders, run_folders, step_variables

TABLE = "CREATE TABLE logged_models (name TEXT, model_id TEXT, source_run_id TEXT, lifecycle_stage TEXT)"
MODELS = [
    ("net", "m-1", "run-1", "active"),
    ("net", "m-2", "run-1", "active"),
    ("gone", "m-3", "run-1", "deleted"),
    ("other", "m-4", "run-2", "active"),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def log(workspace: Workspace, where: str, text: str) -> None:
    file = workspace.home.root / "mlflow" / "artifacts" / where
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def models(workspace: Workspace) -> None:
    """A database of MLflow's with models of two runs, and their files."""
    (workspace.home.root / "mlflow").mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(workspace.home.root / "mlflow" / "mlflow.db")) as connection, connection:
        connection.execute(TABLE)
        connection.executemany("INSERT INTO logged_models VALUES (?, ?, ?, ?)", MODELS)
    for _, id, _, _ in MODELS:
        log(workspace, f"7/models/{id}/artifacts/MLmodel", id)


def read(workspace: Workspace, run_id: str) -> dict[str, str]:
    folders = logged_folders(workspace.home.root, run_id)
    return {
        f"{prefix}{file.relative_to(folder)}": file.read_text()
        for prefix, folder in folders
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_step_is_told_the_key_apart_from_the_address() -> None:
    variables = step_variables("http://127.0.0.1:8080/mlflow", "se-cret", "chat", "job1")
    assert variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:8080/mlflow"
    assert variables["MLFLOW_TRACKING_TOKEN"] == "se-cret"
    assert (variables["MLFLOW_EXPERIMENT_NAME"], variables["MLFLOW_RUN_ID"]) == ("chat", "job1")


def test_of_a_home_without_mlflow_there_is_nothing(workspace: Workspace) -> None:
    assert read(workspace, "run-1") == {}


def test_a_runs_own_files_lie_under_their_paths(workspace: Workspace) -> None:
    log(workspace, "7/run-1/artifacts/plots/loss.png", "png")
    log(workspace, "7/run-2/artifacts/note.txt", "not mine")
    assert read(workspace, "run-1") == {"plots/loss.png": "png"}


@pytest.mark.usefixtures("models")
def test_a_models_files_lie_in_a_folder_of_its_name_and_the_later_one_counts(workspace: Workspace) -> None:
    assert read(workspace, "run-1") == {"net/MLmodel": "m-2"}
    assert read(workspace, "run-2") == {"other/MLmodel": "m-4"}
    assert read(workspace, "run-3") == {}


@pytest.mark.usefixtures("models")
def test_a_models_files_stand_beside_the_runs_own(workspace: Workspace) -> None:
    log(workspace, "7/run-1/artifacts/note.txt", "mine")
    assert read(workspace, "run-1") == {"note.txt": "mine", "net/MLmodel": "m-2"}


def test_what_jobs_runs_have_logged_is_told_by_the_job_and_what_users_own_have_is_not(workspace: Workspace) -> None:
    root = workspace.home.root / "mlflow"
    assert list(run_folders(workspace.home.root)) == []
    for run in ("run-1", "step-run", "users-own", "gone"):
        log(workspace, f"7/{run}/artifacts/note.txt", run)
    log(workspace, "7/traces/t-1/artifacts/trace.json", "{}")
    for model in ("m-1", "m-own", "m-free", "m-gone", "m-unknown"):
        log(workspace, f"7/models/{model}/artifacts/MLmodel", model)
    with closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
        connection.execute(TABLE)
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
        connection.execute("CREATE TABLE tags (run_uuid TEXT, key TEXT, value TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("run-1",), ("step-run",), ("users-own",)])
        tags = [("run-1", "mafunzo.key", "one"), ("step-run", "mafunzo.key", "two/train/1"), ("run-1", "a", "b")]
        connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)
        models = [
            ("net", "m-1", "run-1"),
            ("net", "m-own", "users-own"),
            ("net", "m-free", None),
            ("net", "m-gone", "gone"),
        ]
        connection.executemany("INSERT INTO logged_models VALUES (?, ?, ?, 'active')", models)
    folders = {str(path.relative_to(root / "artifacts")): job for job, path in run_folders(workspace.home.root)}
    assert folders == {
        "7/run-1": "one",
        "7/step-run": "two",
        "7/gone": "",
        "7/models/m-1": "one",
        "7/models/m-gone": "",
        "7/models/m-unknown": "",
    }
