"""Stock MLflow's model registry against a real server: a model registered either way is the same Model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mafunzo import Workspace
from mafunzo.entities.asset import AssetKey, AssetType
from mafunzo.entrypoints.http.auth import operator_key
from tests.support.served import Served
from tests.support.waiting import http

MODEL = Path(__file__).parents[1] / "support" / "mlflow_model.py"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("models"))
    made.start()
    mlflow.set_tracking_uri(f"http://mafunzo:{operator_key(made.home)}@127.0.0.1:{made.address.port}/mlflow")
    yield made
    mlflow.set_tracking_uri(None)
    made.stop()


@pytest.fixture(scope="module")
def client(served: Served) -> MlflowClient:
    return MlflowClient()


@pytest.fixture(scope="module")
def workspace(served: Served) -> Iterator[Workspace]:
    with Workspace(served.home.root) as opened:
        yield opened


@pytest.fixture(scope="module")
def run_id(client: MlflowClient) -> str:
    """A run that has logged the model."""
    with mlflow.start_run(experiment_id=client.create_experiment("mine")) as run:
        mlflow.pyfunc.log_model(name="model", python_model=MODEL, pip_requirements=["mlflow"])
    return run.info.run_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that MLflow has saved the model in."""
    path = tmp_path_factory.mktemp("saved") / "model"
    mlflow.pyfunc.save_model(path, python_model=MODEL, pip_requirements=["mlflow"])
    return path


def register_folder(workspace: Workspace, folder: Path, name: str) -> None:
    workspace.models.register(folder, name=name, description="ours", tags={"team": "one"})


def test_what_a_run_has_logged_becomes_a_version_of_our_model(run_id: str, workspace: Workspace) -> None:
    made = mlflow.register_model(f"runs:/{run_id}/model", "from-a-run", tags={"team": "one"})
    found = workspace.models.get("from-a-run:1")
    assert (made.version, made.run_id, found.tags, found.folder_type) == ("1", run_id, {"team": "one"}, "mlflow_model")
    assert workspace.artifacts.verify(str(found.artifact)) == []
    again = mlflow.register_model(f"runs:/{run_id}/model", "from-a-run")
    assert workspace.models.get("from-a-run").version == again.version == "2"


def test_a_version_is_loaded_by_number_by_alias_and_as_the_latest(run_id: str, client: MlflowClient) -> None:
    mlflow.register_model(f"runs:/{run_id}/model", "loaded")
    client.set_registered_model_alias("loaded", "best", "1")
    for uri in ("models:/loaded/1", "models:/loaded@best", "models:/loaded/latest"):
        assert mlflow.pyfunc.load_model(uri).predict(["abc"]) == ["cba"]


def test_a_model_that_we_registered_is_listed_and_loaded(
    workspace: Workspace, client: MlflowClient, folder: Path
) -> None:
    register_folder(workspace, folder, "ours")
    workspace.records.labels.set(AssetKey("workspace", AssetType.MODEL, "ours", "1"), "best")
    found = {model.name: model for model in mlflow.search_registered_models()}["ours"]
    assert (found.latest_versions[0].version, found.aliases) == ("1", {"best": "1"})
    version = client.get_model_version_by_alias("ours", "best")
    assert (version.description, version.tags, version.status) == ("ours", {"team": "one"}, "READY")
    assert mlflow.pyfunc.load_model("models:/ours@best").predict(["abc"]) == ["cba"]


def test_a_version_that_isnt_a_number_is_listed_and_loaded_by_its_label(
    workspace: Workspace, client: MlflowClient, folder: Path
) -> None:
    workspace.models.register(folder, name="named", version="spring")
    workspace.records.labels.set(AssetKey("workspace", AssetType.MODEL, "named", "spring"), "best")
    assert [version.version for version in client.search_model_versions("name = 'named'")] == ["spring"]
    assert mlflow.pyfunc.load_model("models:/named@best").predict(["abc"]) == ["cba"]


def test_what_is_said_of_a_model_is_said_of_ours(workspace: Workspace, client: MlflowClient, folder: Path) -> None:
    register_folder(workspace, folder, "told")
    client.update_registered_model("told", "all versions")
    client.set_registered_model_tag("told", "team", "two")
    client.update_model_version("told", "1", "the first")
    client.set_model_version_tag("told", "1", "good", "yes")
    client.delete_model_version_tag("told", "1", "team")
    client.transition_model_version_stage("told", "1", "Archived")
    asset = workspace.models.get("told:1")
    assert (asset.description, asset.tags, asset.is_archived) == ("the first", {"good": "yes"}, True)
    found = client.get_registered_model("told")
    assert (found.description, found.tags, found.latest_versions) == ("all versions", {"team": "two"}, [])
    client.delete_registered_model_tag("told", "team")
    assert client.search_registered_models("tags.team = 'two'") == []
    assert [v.version for v in client.search_model_versions("name = 'told' AND tags.good = 'yes'")] == ["1"]


def test_deleting_a_model_deletes_ours(workspace: Workspace, client: MlflowClient, folder: Path) -> None:
    register_folder(workspace, folder, "gone")
    client.copy_model_version("models:/gone/1", "gone")
    client.delete_model_version("gone", "1")
    assert [asset.version for asset in workspace.models.list("gone")] == ["2"]
    client.delete_registered_model("gone")
    assert workspace.models.list("gone") == []


@pytest.mark.parametrize(
    ("ask", "code", "told"),
    [
        (lambda c: c.create_registered_model("kept"), "RESOURCE_ALREADY_EXISTS", "under the name 'kept' already"),
        (lambda c: c.rename_registered_model("kept", "x"), "INVALID_PARAMETER_VALUE", "can't be renamed"),
        (lambda c: c.get_model_version("kept", "9"), "RESOURCE_DOES_NOT_EXIST", "Versions of kept: 1"),
        (lambda c: c.get_model_version_by_alias("kept", "x"), "RESOURCE_DOES_NOT_EXIST", "the label 'x'"),
        (lambda c: c.transition_model_version_stage("kept", "1", "Production"), "INVALID_PARAMETER_VALUE", "an alias"),
        (lambda c: c.create_model_version("kept", "/etc"), "INVALID_PARAMETER_VALUE", "has no files"),
        (
            lambda c: c.create_model_version("kept", "runs:/none/model"),
            "RESOURCE_DOES_NOT_EXIST",
            "No model was logged",
        ),
        (lambda c: c.get_registered_model("nobodys"), "RESOURCE_DOES_NOT_EXIST", "nobodys"),
    ],
)
def test_what_cant_be_is_told_in_mlflows_way(
    ask: Callable[[MlflowClient], Any], code: str, told: str, workspace: Workspace, client: MlflowClient, folder: Path
) -> None:
    if not workspace.models.list("kept"):
        register_folder(workspace, folder, "kept")
    with pytest.raises(MlflowException, match=told) as refusal:
        ask(client)
    assert refusal.value.error_code == code


def test_the_files_of_a_version_never_change(served: Served, workspace: Workspace, folder: Path) -> None:
    register_folder(workspace, folder, "fixed")
    files = f"{served.address.url}/mlflow/api/2.0/mlflow-artifacts/artifacts"
    auth = ("operator", operator_key(served.home))
    for method in ("PUT", "DELETE"):
        answer = http.request(method, f"{files}/registered-models/fixed/1/MLmodel", auth=auth)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    asked = {"name": "fixed", "version": "1", "path": "MLmodel"}
    page_file = http.get(f"{served.address.url}/mlflow/model-versions/get-artifact", params=asked, auth=auth)
    assert page_file.text == (folder / "MLmodel").read_text()
    for path in (
        "registered-models/fixed/1/../../../secret",
        "registered-models/fixed/1/nothing",
        "registered-models/x/1",
    ):
        assert http.get(f"{files}/{path}", auth=auth).status_code == 404


def test_each_role_may_do_its_part_and_what_is_made_carries_its_makers_name(
    served: Served, run_id: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{served.address.url}/mlflow"
    workspace.users.create("owns", "owner")
    _, token = workspace.users.create("makes", "contributor")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    maker = MlflowClient(url)
    maker.create_registered_model("made")
    maker.create_model_version("made", f"runs:/{run_id}/model")
    made = workspace.models.get("made:1")
    assert (made.created_by, made.echoes["mlflow"]["run_id"]) == ("makes", run_id)
    with pytest.raises(MlflowException, match="needs the role owner") as refusal:
        maker.delete_model_version("made", "1")
    assert refusal.value.error_code == "PERMISSION_DENIED"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", workspace.users.create("looks", "reader")[1])
    reader = MlflowClient(url)
    assert [version.version for version in reader.get_latest_versions("made")] == ["1"]
    assert reader.search_runs([reader.get_run(run_id).info.experiment_id])
    with pytest.raises(MlflowException, match="needs the role contributor"):
        reader.create_registered_model("other")


def test_prompts_are_mlflows_own(client: MlflowClient) -> None:
    mlflow.genai.register_prompt("greeting", "Say hello to {{name}}")
    assert mlflow.genai.load_prompt("prompts:/greeting/1").template == "Say hello to {{name}}"
    assert [prompt.name for prompt in mlflow.genai.search_prompts()] == ["greeting"]
    assert "greeting" not in {model.name for model in client.search_registered_models()}
