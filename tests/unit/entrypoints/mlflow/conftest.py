"""A database of MLflow's, made once and copied: making one takes seconds, as does importing MLflow, which few tests here need."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mafunzo.entrypoints.mlflow.store import RunStore


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def store(database: str) -> RunStore:
    from mafunzo.entrypoints.mlflow.store import RunStore

    return RunStore(database, "mlflow-artifacts:/")


@pytest.fixture
def client(database: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=database)
