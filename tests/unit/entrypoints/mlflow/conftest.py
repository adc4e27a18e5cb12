"""A database of MLflow's, made once and copied: making one takes seconds."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mafunzo.entrypoints.mlflow.store import RunStore


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def store(database: str) -> RunStore:
    return RunStore(database, "mlflow-artifacts:/")


@pytest.fixture
def client(database: str) -> MlflowClient:
    return MlflowClient(tracking_uri=database)
