"""MLflow as users of the Azure SDK have it: with and without `azureml-mlflow`, from outside and in a job."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.retention import models_made_by
from mafunzo.entrypoints.azure.wire.envelope import workspace_id

PROGRAM = Path(__file__).parent / "mlflow_program.py"
MODEL = Path(__file__).parents[1] / "support" / "mlflow_model.py"
PLUGIN = ("azureml-mlflow==1.60.0", "azure-common", "jsonpickle", "pytz")
BEFORE = dict(os.environ)
"""The environment of whoever runs the tests, in which pip finds its index."""
IN_A_JOB = """
import mlflow, os, sys
mlflow.log_param("lr", 0.1)
for step in range(3):
    mlflow.log_metric("loss", 3.0 - step, step=step)
mlflow.log_text("hello", "notes/a.txt")
mlflow.pyfunc.log_model(name="model", python_model=sys.argv[1], pip_requirements=["mlflow"])
assert mlflow.active_run().info.run_id == os.environ["AZUREML_RUN_ID"]
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `azureml-mlflow`, which would bring an older azure-storage-blob if it were installed beside the SDK."""
    folder = tmp_path_factory.mktemp("plugin")
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*argv, "--target", str(folder), *PLUGIN], env=BEFORE, check=True)
    return folder


def run_program(name: str, environment: dict[str, str], plugin: Path | None = None, uri: str | None = None) -> Any:
    """Run the user's program in a process of its own, and return what it found."""
    variables = {**os.environ, **environment} | ({"PYTHONPATH": str(plugin)} if plugin else {})
    variables |= {"MLFLOW_TRACKING_URI": uri} if uri else {}
    argv = [sys.executable, str(PROGRAM), name, str(MODEL)]
    ended = subprocess.run(argv, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    printed = ended.stdout + ended.stderr
    assert "View run outer at: " in printed and os.environ["IDENTITY_HEADER"] not in printed
    return json.loads(ended.stdout[ended.stdout.rindex('{"plugins"') :])


@pytest.mark.parametrize(
    ("has_plugin", "scheme"),
    [
        pytest.param(False, "http", id="stock mlflow at the workspace's URI"),
        pytest.param(True, "http", id="azureml-mlflow at the workspace's URI"),
        pytest.param(True, "azureml", id="azureml-mlflow at an azureml URI"),
    ],
)
def test_all_that_users_do_works(
    has_plugin: bool,
    scheme: str,
    workspace: Workspace,
    environment: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:
    name = f"mlflow-{scheme}-{has_plugin}"
    plugin = request.getfixturevalue("plugin") if has_plugin else None
    uri = None
    if scheme == "azureml":
        uri = f"azureml://{workspace.up().https_url.removeprefix('https://')}/mlflow/v1.0{workspace_id()}"
    found = run_program(name, environment, plugin, uri)
    assert (found["scheme"], "azureml" in found["plugins"]) == (scheme, has_plugin)
    assert found["metrics"] == {"loss": 1.5, "accuracy": 0.5}
    assert (found["text"], found["files"]) == ("hello", ["notes/a.txt"])
    assert (found["version"], found["models"]) == ("1", [name])
    assert found["of_the_run"] == found["of_the_registry"] == ["cba"]
    assert workspace.models.get(name).folder_type == "mlflow_model"


@pytest.fixture(scope="module")
def ended_job(client: Any, workspace: Workspace, wait: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A command that has logged with MLflow, as the environment leads it to."""
    from azure.ai.ml import command
    from azure.ai.ml.entities import Environment

    code = tmp_path_factory.mktemp("src")
    (code / "main.py").write_text(IN_A_JOB)
    (code / "model.py").write_text(MODEL.read_text())
    uri = client.workspaces.get(client.workspace_name).mlflow_tracking_uri
    job = command(
        name="logs-with-mlflow",
        code=str(code),
        command="python main.py model.py",
        environment=Environment(name="plain-mlflow", image="any"),
        experiment_name="commands-with-mlflow",
    )
    client.jobs.create_or_update(job)
    found = wait("logs-with-mlflow")
    assert found.status == "Completed", workspace.jobs.get(found.name).logs(
        workspace.jobs.get(found.name).steps[0].name
    )
    mlflow.set_tracking_uri(uri)
    yield found
    mlflow.set_tracking_uri(None)


def test_what_a_command_logs_is_its_jobs_run(ended_job: Any, workspace: Workspace) -> None:
    run = mlflow.get_run(ended_job.name)
    assert (run.data.params, run.data.metrics) == ({"lr": "0.1"}, {"loss": 1.0})
    assert mlflow.artifacts.load_text(f"runs:/{ended_job.name}/notes/a.txt") == "hello"
    found = mlflow.search_runs(experiment_names=["commands-with-mlflow"], output_format="list")
    assert [one.info.run_id for one in found] == [ended_job.name]
    lines = next(iter(workspace.jobs.get(ended_job.name).metrics().values()))
    assert [(line["step"], line["loss"]) for line in lines] == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_what_a_command_logs_is_among_its_files(ended_job: Any, client: Any, tmp_path: Path) -> None:
    """As on Azure, where a model is registered from there, and `jobs.download` brings it all."""
    from azure.ai.ml.entities import Model

    path = f"azureml://jobs/{ended_job.name}/outputs/artifacts/paths/model/"
    client.models.create_or_update(Model(name="from-its-files", path=path, type="mlflow_model"))
    assert mlflow.pyfunc.load_model("models:/from-its-files/1").predict(["abc"]) == ["cba"]
    client.jobs.download(ended_job.name, download_path=tmp_path)
    assert (tmp_path / "artifacts" / "notes" / "a.txt").read_text() == "hello"
    assert (tmp_path / "artifacts" / "model" / "MLmodel").exists()


def test_a_model_that_a_command_has_logged_has_its_lineage(ended_job: Any, workspace: Workspace) -> None:
    mlflow.register_model(f"runs:/{ended_job.name}/model", "of-a-command")
    assert "of-a-command" in [model.name for model in models_made_by(workspace.services, ended_job.name)]
    links = workspace.lineage("of-a-command").links
    assert [link.kind for link in links][:2] == ["model", "job"]
    assert mlflow.pyfunc.load_model("models:/of-a-command/1").predict(["abc"]) == ["cba"]
