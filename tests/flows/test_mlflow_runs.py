"""Users' own runs, made with stock MLflow against a real server, are data: they outlive it, and are in the backup."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from mafunzo import Workspace
from mafunzo.control.workspace import restore
from mafunzo.entrypoints.http.auth import operator_key
from tests.support.finished_job import add_finished_job
from tests.support.served import Served
from tests.support.waiting import http


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    add_finished_job(made.home)
    start(made)
    yield made
    mlflow.set_tracking_uri(None)
    made.stop()


def start(served: Served) -> MlflowClient:
    served.start()
    mlflow.set_tracking_uri(f"http://mafunzo:{operator_key(served.home)}@127.0.0.1:{served.address.port}/mlflow")
    return MlflowClient()


def make_runs(experiment: str) -> Run:
    """Make a run of a user's own with one under it, and another that is deleted."""
    id = MlflowClient().create_experiment(experiment)
    with mlflow.start_run(experiment_id=id, run_name="mine") as run:
        mlflow.log_param("lr", 0.1)
        mlflow.log_metric("loss", 1.5, step=1)
        mlflow.log_text("kept", "notes/a.txt")
        with mlflow.start_run(experiment_id=id, run_name="inner", nested=True):
            mlflow.log_metric("loss", 2.5)
    with mlflow.start_run(experiment_id=id, run_name="deleted") as deleted:
        mlflow.log_text("gone", "b.txt")
    mlflow.delete_run(deleted.info.run_id)
    return run


def check_runs(experiment: str, run: Run) -> None:
    found = mlflow.search_runs(experiment_names=[experiment], filter_string="metrics.loss < 2", output_format="list")
    assert [(r.info.run_id, r.data.params, r.data.metrics) for r in found] == [
        (run.info.run_id, {"lr": "0.1"}, {"loss": 1.5})
    ]
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/a.txt") == "kept"
    inner = mlflow.search_runs(
        experiment_names=[experiment], filter_string="attributes.run_name = 'inner'", output_format="list"
    )
    assert inner[0].data.tags["mlflow.parentRunId"] == run.info.run_id


@pytest.mark.slow
def test_users_runs_outlive_the_server_and_come_back_from_a_backup(served: Served, tmp_path: Path) -> None:
    run = make_runs("mine")
    check_runs("mine", run)
    served.stop()
    again = Served(tmp_path)
    client = start(again)
    try:
        check_runs("mine", run)
        with Workspace(again.home.root) as workspace:
            workspace.backup(tmp_path / "home.tar")
        deleted = client.search_runs(run.info.experiment_id, run_view_type=ViewType.DELETED_ONLY)
        client.restore_run(deleted[0].info.run_id)
        assert mlflow.artifacts.load_text(f"runs:/{deleted[0].info.run_id}/b.txt") == "gone"
    finally:
        again.stop()
    restore(tmp_path / "home.tar", tmp_path / "other" / "home")
    third = Served(tmp_path / "other")
    client = start(third)
    try:
        check_runs("mine", run)
        assert client.search_runs([client.get_experiment_by_name("chat").experiment_id])
    finally:
        third.stop()


@pytest.mark.slow
def test_mlflows_own_gc_frees_the_files_of_deleted_runs(served: Served) -> None:
    run = make_runs("mine")
    folder = served.home.root / "mlflow"
    assert len(list(folder.glob("artifacts/*/*/artifacts"))) == 2
    # As docs/howto/use-mlflow.md has it.
    argv = [
        str(Path(sys.executable).parent / "mlflow"),
        "gc",
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
    ]
    argv += ["--artifacts-destination", str(folder / "artifacts"), "--tracking-uri", str(mlflow.get_tracking_uri())]
    subprocess.run(argv, check=True, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"})
    check_runs("mine", run)
    assert len(list(folder.glob("artifacts/*/*/artifacts"))) == 1


def test_a_run_that_shows_a_job_takes_notes_and_no_files(served: Served) -> None:
    client = MlflowClient()
    job = client.get_run("job1")
    client.set_tag("job1", "mlflow.note.content", "the good one")
    for change in (
        lambda: client.log_metric("job1", "loss", 0.0),
        lambda: client.log_text("job1", "x", "a.txt"),
        lambda: client.delete_run("job1"),
        lambda: client.delete_experiment(job.info.experiment_id),
    ):
        with pytest.raises((MlflowException, requests.HTTPError), match=r"jobs? of Mafunzo"):
            change()
    assert client.get_run("job1").data.tags["mlflow.note.content"] == "the good one"


def test_a_page_of_another_site_is_refused(served: Served) -> None:
    url, auth = f"{served.address.url}/mlflow", ("operator", operator_key(served.home))
    asked = {"name": "theirs"}
    for origin, status in (("https://evil.example", 403), (served.address.url, 200)):
        headers = {"Origin": origin}
        answer = http.post(f"{url}/ajax-api/2.0/mlflow/experiments/create", json=asked, auth=auth, headers=headers)
        assert answer.status_code == status
