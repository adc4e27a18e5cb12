"""Tests of `mafunzo.entrypoints.azure.reference`."""

from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.asset import AssetType
from mafunzo.entities.reference import AssetReference, JobOutputReference, StoredPath, WebAddress
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.errors import InvalidParameter

ROWS = Path(__file__).parents[4] / "examples" / "conversations.jsonl"
ARM = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chitchat", AssetReference("chitchat")),
        ("chitchat:2", AssetReference("chitchat", "2")),
        ("azureml:chitchat:2", AssetReference("chitchat", "2")),
        ("chitchat@latest", AssetReference("chitchat")),
        ("chitchat@good", AssetReference("chitchat", label="good")),
        (
            "azureml://registries/azureml/models/phi/versions/3",
            AssetReference("phi", "3", None, "azureml", AssetType.MODEL),
        ),
        (
            "azureml://registries/azureml/models/phi/labels/latest",
            AssetReference("phi", None, None, "azureml", AssetType.MODEL),
        ),
        ("azureml://jobs/j1/outputs/trained_model", JobOutputReference("j1", "trained_model")),
        ("azureml://jobs/j1/outputs/trained_model/paths/", JobOutputReference("j1", "trained_model")),
        (
            "azureml://jobs/j1/outputs/artifacts/paths/outputs/model/",
            JobOutputReference("j1", "artifacts", "outputs/model"),
        ),
        (f"{ARM}/data/talks/versions/1", AssetReference("talks", "1", type=AssetType.DATA)),
        (f"azureml:{ARM}/codes/c/versions/2", AssetReference("c", "2", type=AssetType.CODE)),
        ("azureml://datastores/d/paths/a/b.csv", StoredPath("d", "a/b.csv")),
        ("azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/a/b/", StoredPath("d", "a/b")),
        ("https://example.com/a/b%20c.csv?sv=1", WebAddress("https://example.com/a/b%20c.csv?sv=1")),
        ("https://example.com/", None),
        ("wasbs://box@example.com/a.csv", None),
        ("azureml:https://example.com/a.csv", None),
        (f"{ARM}/computes/gpu", AssetReference("gpu")),
        (f"{ARM}/schedules/nightly", None),
        ("org/name", None),
        ("", None),
    ],
)
def test_every_way_to_write_a_name(text, expected):
    assert parse_reference(text) == expected


def test_an_address_of_the_registry_names_a_base_model(tmp_path):
    address = "azureml://registries/azureml/models/tiny-llama/versions/1"
    with Workspace(tmp_path, port=0) as workspace:
        job, _ = workspace.jobs.plan_finetune(mlflow_model_path=address, train=ROWS)
    assert job.inputs["mlflow_model_path"]["name"] == "tiny-llama:1"


def test_two_names_of_an_output_are_refused(tmp_path):
    refused = pytest.raises(InvalidParameter, match="names the output a, but output is b")
    with Workspace(tmp_path, port=0) as workspace, refused:
        workspace.models.register("azureml://jobs/job-1/outputs/a", name="tuned", output="b")


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("azureml://datastores/workspaceblobstore/paths/", StoredPath("workspaceblobstore", "")),
        ("azureml://datastores/workspaceblobstore/paths", StoredPath("workspaceblobstore", "")),
        ("runs:/j/model", JobOutputReference("j", "artifacts", "model")),
        ("azureml:azureml_j.s_output_data_out:1", JobOutputReference("j.s", "out")),
        (f"{ARM}/data/azureml_j_output_data_out/versions/1", JobOutputReference("j", "out")),
        ("azureml:azureml_j_output_data_out:2", AssetReference("azureml_j_output_data_out", "2")),
    ],
)
def test_what_azure_names_by_itself_is_known(text: str, reference: object) -> None:
    assert parse_reference(text) == reference
