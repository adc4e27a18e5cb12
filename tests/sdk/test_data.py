"""Registered data with the Azure SDK: uploaded once, versions that never change, and jobs that name them."""

from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input
from azure.ai.ml.constants._common import AutoDeleteCondition
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import Data
from azure.ai.ml.entities._assets.auto_delete_setting import AutoDeleteSetting
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mafunzo import Workspace
from mafunzo.entities.asset import WORKSPACE_SCOPE, AssetType

CONVERSATIONS = Path(__file__).parent.parent.parent / "examples" / "conversations.jsonl"


@pytest.fixture(scope="module")
def talks(client: Any) -> Any:
    return client.data.create_or_update(
        Data(
            name="talks",
            version="1",
            type="uri_file",
            path=str(CONVERSATIONS),
            description="greetings",
            tags={"a": "b"},
        )
    )


def test_data_comes_back_as_it_was_registered(talks, client):
    found = client.data.get("talks", version="1")
    assert (found.type, found.description, found.tags) == ("uri_file", "greetings", {"a": "b"})
    assert found.path == talks.path and found.path.endswith("/conversations.jsonl")
    assert found.creation_context.created_by


def test_versions_are_counted_up_and_the_latest_is_found(talks, client, folder):
    for _ in range(2):
        made = client.data.create_or_update(Data(name="counted", type="uri_folder", path=str(folder)))
    assert (made.version, made.type) == ("2", "uri_folder")
    assert client.data.get("counted", label="latest").version == "2"
    assert [found.version for found in client.data.list("counted")] == ["2", "1"]
    assert {"talks", "counted"} <= {found.name for found in client.data.list()}


def test_a_version_never_changes_but_what_is_said_of_it_may(talks, client, tmp_path):
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(HttpResponseError, match="A version never changes"):
        client.data.create_or_update(
            Data(name="talks", version="1", type="uri_file", path=str(tmp_path / "other.jsonl"))
        )
    talks.description = "warm greetings"
    client.data.create_or_update(talks)
    assert client.data.get("talks", version="1").description == "warm greetings"


def test_archived_data_is_hidden_until_it_is_restored(client, folder):
    client.data.create_or_update(Data(name="old", version="1", type="uri_folder", path=str(folder)))
    client.data.archive("old", version="1")
    assert list(client.data.list("old")) == []
    assert [found.version for found in client.data.list("old", list_view_type="ALL")] == ["1"]
    client.data.restore("old", version="1")
    assert [found.version for found in client.data.list("old")] == ["1"]


def test_what_data_is_sent_with_is_given_back(client, tmp_path):
    (tmp_path / "MLTable").write_text("paths:\n  - file: ./a.csv\ntransformations:\n  - read_delimited\n")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    soon = AutoDeleteSetting(condition=AutoDeleteCondition.CREATED_GREATER_THAN, value="30d")
    made = client.data.create_or_update(
        Data(name="kept-table", version="1", type="mltable", path=str(tmp_path), auto_delete_setting=soon)
    )
    assert made.path.startswith("azureml://subscriptions/") and made.path.endswith(f"/{tmp_path.name}/")
    found = client.data.get("kept-table", version="1")
    assert (found.path, found.auto_delete_setting.value) == (made.path, "30d")
    found.tags = {"a": "b"}
    found.properties = {"p": "q"}
    assert client.data.create_or_update(found).properties == {"p": "q"}


def test_what_is_not_there_is_not_found(talks, client):
    with pytest.raises(ResourceNotFoundError):
        client.data.get("talks", version="9")
    with pytest.raises(HttpResponseError, match="Uploaded files, outputs of jobs"):
        client.data.create_or_update(
            Data(name="far", version="1", type="uri_file", path="wasbs://box@there/train.jsonl")
        )


def test_a_file_of_the_web_keeps_the_bytes_that_it_had(web, client, workspace: Workspace):
    (web.folder / "far words.txt").write_text("far away")
    far = Data(name="far", version="1", type="uri_file", path=f"{web.url}/far%20words.txt?part=1")
    made = client.data.create_or_update(far)
    assert made.path == far.path
    (web.folder / "far words.txt").write_text("changed since")
    made.description = "from afar"
    assert client.data.create_or_update(made).description == "from afar"
    (asset,) = workspace.records.assets.list(WORKSPACE_SCOPE, AssetType.DATA, "far")
    assert workspace.artifacts.open_file(asset.artifact, "far words.txt").read_text() == "far away"


def test_what_the_web_does_not_have_is_told(web, client):
    for path, told in (
        (f"{web.url}/none.txt", r"Data 'none' is '.*/none.txt', which the server there answers with 404 "),
        ("http://127.0.0.1:9/none.txt", r"which can't be fetched \(.*\). Fetch it first"),
    ):
        with pytest.raises(HttpResponseError, match=told):
            client.data.create_or_update(Data(name="none", version="1", type="uri_file", path=path))
    with pytest.raises(HttpResponseError, match="of type 'uri_folder', expected uri_file"):
        client.data.create_or_update(Data(name="none", version="1", type="uri_folder", path=f"{web.url}/folder"))


def test_a_job_takes_registered_data(talks, client, registry, workspace: Workspace):
    component = registry.components.get(name="chat_completion_pipeline", label="latest")
    model = registry.models.get("tiny-llama", label="latest")

    @pipeline(name="on-registered-data")
    def create() -> Any:
        node = component(
            mlflow_model_path=model.id,
            train_file_path=Input(type="uri_file", path="azureml:talks:1"),
            validation_file_path=Input(type="uri_file", path=talks.id),
            max_steps=1,
        )
        return {"trained_model": node.outputs.mlflow_model_folder}

    made = client.jobs.create_or_update(create())
    client.jobs.begin_cancel(made.name)
    prepare = next(step for step in workspace.jobs.get(made.name).steps if step.name == "prepare_data")
    assert {prepare.spec.inputs[f"{split}_file_path"].name for split in ("train", "validation")} == {"talks:1"}
