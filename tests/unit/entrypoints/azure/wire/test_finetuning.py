"""The job kind `finetuning` as the pipeline job that it is here."""

from typing import Any

import pytest

from mafunzo.entities.reference import PathInput
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.wire.finetuning import pipeline_properties
from mafunzo.entrypoints.azure.wire.job import job_from_body
from mafunzo.errors import InvalidParameter, NotSupported

MODEL = "azureml://registries/azureml/models/tiny-llama/versions/1"
TRAIN = "azureml://datastores/workspaceblobstore/paths/train.jsonl"


def asked(details: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    """A job's properties as the SDK sends them."""
    named = {
        "taskType": "chatCompletion",
        "modelProvider": "Custom",
        "model": {"uri": MODEL, "jobInputType": "mlflow_model"},
        "trainingData": {"uri": TRAIN, "jobInputType": "uri_file"},
        "hyperParameters": {"learning_rate": "5e-4"},
    }
    outputs = {"registered_model": {"assetName": "tuned", "jobOutputType": "mlflow_model"}}
    return {
        "jobType": "FineTuning",
        "fineTuningDetails": {**named, **(details or {})},
        "outputs": outputs,
        **properties,
    }


def test_a_job_becomes_one_node_whose_output_is_registered() -> None:
    request = job_from_body("one", {"properties": asked(computeId="/computes/cluster")})
    (node,) = request.pipeline.nodes.values()
    assert node.inputs == {
        "learning_rate": "5e-4",
        "compute_finetune": "cluster",
        "mlflow_model_path": PathInput(parse_reference(MODEL), "mlflow_model", MODEL),
        "train_file_path": PathInput(parse_reference(TRAIN), "uri_file", TRAIN),
    }
    assert node.outputs == {"mlflow_model_folder": "${{parent.outputs.registered_model}}"}
    assert request.destinations["registered_model"].asset_name == "tuned"
    assert request.has_model_defaults


def test_a_job_without_outputs_has_the_tuned_model() -> None:
    assert list(pipeline_properties("one", asked(outputs={}))["outputs"]) == ["registered_model"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param({"taskType": "TextCompletion"}, "has the task 'TextCompletion'", id="task"),
        pytest.param({"modelProvider": "AzureOpenAI"}, "which only Azure has", id="provider"),
    ],
)
def test_other_tasks_and_providers_are_not_supported(given: dict[str, Any], told: str) -> None:
    with pytest.raises(NotSupported, match=told):
        pipeline_properties("one", asked(given))


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        pytest.param(asked({"model": None}), "has no model", id="no model"),
        pytest.param(asked({"trainingData": {}}), "has no trainingData", id="no data"),
        pytest.param(asked({"hyperParameters": {"train_file_path": "x"}}), "among its hyperparameters", id="twice"),
        pytest.param(asked(outputs={"a": {}, "b": {}}), "has the outputs a, b", id="two outputs"),
    ],
)
def test_what_is_missing_or_given_twice_is_named(properties: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        pipeline_properties("one", properties)
