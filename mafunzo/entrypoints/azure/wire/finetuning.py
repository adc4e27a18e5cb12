"""The job kind `finetuning` in Azure's JSON, as the pipeline job that it is here: one node, the registry's chat completion."""

from collections.abc import Mapping
from typing import Any

from mafunzo.entrypoints.azure.reference import compute_name
from mafunzo.entrypoints.azure.wire.envelope import registry_id
from mafunzo.errors import InvalidParameter, NotSupported

FINE_TUNING = "FineTuning"
CHAT_COMPLETION = "chatcompletion"
CUSTOM = "Custom"
PIPELINE = "chat_completion_pipeline"
MODEL_OUTPUT = "registered_model"
_FILES = {"mlflow_model_path": "model", "train_file_path": "trainingData", "validation_file_path": "validationData"}
"""The pipeline's inputs that are files, by what the job calls them."""
_REQUIRED = ("model", "trainingData")


def pipeline_properties(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fine-tuning job's properties as those of a pipeline job, whose checks are then the job's own.

    Raises `NotSupported` for other tasks and providers, `InvalidParameter` for what is missing or given twice.
    """
    details = properties.get("fineTuningDetails") or {}
    _refuse_others(name, details)
    outputs = dict(properties.get("outputs") or {MODEL_OUTPUT: {"jobOutputType": "mlflow_model"}})
    if len(outputs) > 1:
        raise InvalidParameter(f"Job '{name}' has the outputs {', '.join(outputs)}. It has one: the tuned model.")
    (output,) = outputs
    node = {
        "type": "pipeline",
        "componentId": registry_id("components", PIPELINE, "labels", "latest"),
        "inputs": _literals(name, details, properties) | _files(name, details),
        "outputs": {"mlflow_model_folder": f"${{{{parent.outputs.{output}}}}}"},
    }
    return {**properties, "jobType": "Pipeline", "inputs": {}, "outputs": outputs, "jobs": {PIPELINE: node}}


def _refuse_others(name: str, details: Mapping[str, Any]) -> None:
    task, provider = str(details.get("taskType") or ""), str(details.get("modelProvider") or CUSTOM)
    if task.lower() != CHAT_COMPLETION:
        raise NotSupported(
            f"Fine-tuning job '{name}' has the task '{task}'. The task that runs here is ChatCompletion."
        )
    if provider != CUSTOM:
        raise NotSupported(
            f"Fine-tuning job '{name}' is for a model of {provider}, which only Azure has. Name a model of the registry."
        )


def _literals(name: str, details: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters as the node's literals, and the job's compute as that of the step that trains."""
    hyperparameters = dict(details.get("hyperParameters") or {})
    if twice := sorted(_FILES.keys() & hyperparameters.keys()):
        raise InvalidParameter(
            f"Fine-tuning job '{name}' has {', '.join(twice)} among its hyperparameters. "
            "Name these as the job's model, training_data and validation_data."
        )
    compute = compute_name(str(properties.get("computeId") or ""))
    if compute:
        hyperparameters = {"compute_finetune": compute} | hyperparameters
    return {key: {"job_input_type": "literal", "value": str(value)} for key, value in hyperparameters.items()}


def _files(name: str, details: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {}
    for ours, theirs in _FILES.items():
        file_input = details.get(theirs) or {}
        if file_input.get("uri"):
            inputs[ours] = {"job_input_type": file_input.get("jobInputType") or "uri_file", "uri": file_input["uri"]}
        elif theirs in _REQUIRED:
            raise InvalidParameter(f"Fine-tuning job '{name}' has no {theirs}. Name its path.", param=theirs)
    return inputs
