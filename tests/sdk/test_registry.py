"""The registry with the Azure SDK: what ships with Mafunzo is listed, taken and downloaded; what users have is shared there."""

from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input, MLClient, command
from azure.ai.ml.entities import Data, Environment, Model
from azure.ai.ml.exceptions import ValidationException
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mafunzo import Workspace
from mafunzo.entrypoints.azure.client.environment import workspace_config
from tests.support.waiting import LIMIT_S


@pytest.fixture(scope="module")
def mine(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data and an environment of the workspace, all called `mine`, of the files of one folder."""
    folder = tmp_path_factory.mktemp("mine") / "files"
    folder.mkdir()
    (folder / "weights.txt").write_text("0.5")
    client.models.create_or_update(Model(name="mine", version="1", path=str(folder), tags={"a": "b"}))
    client.data.create_or_update(Data(name="mine", version="1", type="uri_folder", path=str(folder)))
    client.environments.create_or_update(Environment(name="mine", version="1", image="an-image"))
    return folder


@pytest.fixture(scope="module")
def shared(mine: Path, client: Any, credential: Any) -> Path:
    """All three, shared as version 7 of `ours`. Sharing leaves the SDK's client in the registry: this one is thrown away."""
    for noun in ("models", "data", "environments"):
        sharer = getattr(MLClient(credential, *workspace_config().values()), noun)
        made = sharer.share("mine", "1", share_with_name="ours", share_with_version="7", registry_name="azureml")
        assert (made.name, made.version) == ("ours", "7")
    return mine


def test_the_registry_itself_is_found(client, registry):
    assert client.registries.get("azureml").location == "local"
    assert [found.name for found in client.registries.list()] == ["azureml"]
    with pytest.raises(ResourceNotFoundError, match="No registry is called 'other'"):
        client.registries.get("other")


@pytest.mark.parametrize(
    ("noun", "name"),
    [
        ("models", "tiny-llama"),
        ("components", "chat_completion_pipeline"),
        ("components", "finetune"),
        ("environments", "sklearn-1.5"),
    ],
)
def test_what_ships_is_listed_and_found_by_version_and_label(registry, noun, name):
    operations = getattr(registry, noun)
    assert name in {found.name for found in operations.list()}
    (listed,) = operations.list(name)
    latest, exact = operations.get(name, label="latest"), operations.get(name, version=listed.version)
    assert latest.id == exact.id == f"azureml://registries/azureml/{noun}/{name}/versions/{listed.version}"


def test_a_curated_environment_is_the_same_in_every_version_of_azures(registry):
    assert registry.environments.get("sklearn-1.5", version="30").version == "30"


def test_there_is_no_data_but_what_is_shared(registry):
    assert "mine" not in {found.name for found in registry.data.list()}
    with pytest.raises(ResourceNotFoundError):
        registry.data.get("mine", version="1")


def test_a_model_is_fetched_when_its_files_are_first_asked_for(registry, tmp_path, workspace: Workspace):
    for to in ("first", "again"):
        registry.models.download("tiny-llama", version="1", download_path=tmp_path / to)
    names = {path.name for path in (tmp_path / "first" / "tiny-llama" / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert names == {path.name for path in (tmp_path / "again" / "tiny-llama" / "model").iterdir()}
    imports = [job for job in workspace.jobs.list() if job.display_name.endswith("/models/tiny-llama/versions/1")]
    assert len(imports) == 2
    with pytest.raises(ResourceNotFoundError, match="no model 'nothing'"):
        registry.models.download("nothing", version="1", download_path=tmp_path)


def test_a_model_that_is_being_fetched_is_not_fetched_twice(workspace: Workspace):
    first, second = (workspace.models.import_once("tiny-llama:1") for _ in range(2))
    assert first.name == second.name
    first.wait(timeout_s=LIMIT_S)


def test_why_a_model_cannot_be_fetched_is_told_at_once(registry, tmp_path, workspace: Workspace):
    model = registry.models.get("gemma-2-2b-it", label="latest")
    (tmp_path / "empty").mkdir()
    workspace.models.mirror("google/gemma-2-2b-it", tmp_path / "empty")
    with pytest.raises(HttpResponseError, match="it isn't a mirror of google/gemma-2-2b-it") as refused:
        registry.models.download(model.name, version=model.version, download_path=tmp_path / "to")
    assert refused.value.status_code < 500  # else the SDK would try again


def test_what_is_shared_is_found_beside_what_ships(shared, registry):
    for noun in ("models", "data", "environments"):
        operations = getattr(registry, noun)
        assert "ours" in {found.name for found in operations.list()}
        assert operations.get("ours", label="latest").version == "7"
    assert registry.models.get("ours", version="7").tags == {"a": "b"}


def test_a_shared_model_is_downloaded(shared, registry, tmp_path):
    registry.models.download("ours", version="7", download_path=tmp_path)
    assert (tmp_path / "ours" / "model" / "weights.txt").read_text() == "0.5"


def test_jobs_take_what_is_shared(shared, client, workspace: Workspace):
    made = client.jobs.create_or_update(
        command(
            command="ls ${{inputs.data}} ${{inputs.weights}}",
            environment="azureml://registries/azureml/environments/ours/versions/7",
            inputs={
                "data": Input(type="uri_folder", path="azureml://registries/azureml/data/ours/versions/7"),
                "weights": Input(type="custom_model", path="azureml://registries/azureml/models/ours/versions/7"),
            },
        )
    )
    client.jobs.begin_cancel(made.name)
    (step,) = workspace.jobs.get(made.name).steps
    artifact = workspace.models.get("azureml://registries/azureml/models/ours/versions/7").artifact
    assert {value.artifact for value in step.spec.inputs.values()} == {artifact}
    assert step.spec.runtime is not None and step.spec.runtime.image == "an-image"


def test_shared_versions_are_archived_and_restored_and_those_that_ship_are_not(shared, registry):
    registry.models.archive("ours", version="7")
    assert list(registry.models.list("ours")) == []
    registry.models.restore("ours", version="7")
    assert [found.version for found in registry.models.list("ours")] == ["7"]
    registry.data.archive("ours")
    assert "ours" not in {found.name for found in registry.data.list()}
    registry.data.restore("ours")
    assert "ours" in {found.name for found in registry.data.list()}
    for label in ({"version": "1"}, {}):
        with pytest.raises(HttpResponseError, match="ships with Mafunzo"):
            registry.models.archive("tiny-llama", **label)


def test_a_version_is_shared_once_and_under_a_name_of_its_own(shared, credential):
    def share(**given: str) -> None:
        sharer = MLClient(credential, *workspace_config().values()).models
        asked = {"name": "mine", "version": "1", "share_with_name": "ours", "share_with_version": "7", **given}
        sharer.share(**asked, registry_name="azureml")

    with pytest.raises(ValidationException, match="already exists in registry"):
        share()
    with pytest.raises(HttpResponseError, match=r"'tiny-llama' ships with Mafunzo\. Share under another name"):
        share(share_with_name="tiny-llama")
    with pytest.raises(HttpResponseError, match="No model 'mine:9' in workspace"):
        share(version="9", share_with_version="8")


def test_nothing_is_made_in_the_registry_itself(mine, client, registry):
    wanted = r"nothing is made, changed or deleted there\. Create it in the workspace"
    with pytest.raises(HttpResponseError, match=wanted):
        registry.models.create_or_update(Model(name="new", version="1", path=str(mine)))
    with pytest.raises(HttpResponseError, match=wanted):
        registry.data.create_or_update(Data(name="new", version="1", type="uri_folder", path=str(mine)))
    with pytest.raises(HttpResponseError, match=wanted):
        registry.environments.create_or_update(Environment(name="new", version="1", image="an-image"))
    with pytest.raises(HttpResponseError, match=wanted):
        client.registries.begin_delete(name="azureml")


def test_a_shared_model_can_be_deleted_and_the_bytes_of_the_first_stay(shared, workspace: Workspace, client, tmp_path):
    """The last test: nothing is shared as a model any more."""
    workspace.models.delete("azureml://registries/azureml/models/ours/versions/7")
    client.models.download("mine", version="1", download_path=tmp_path)
    assert (tmp_path / "mine" / "files" / "weights.txt").read_text() == "0.5"
