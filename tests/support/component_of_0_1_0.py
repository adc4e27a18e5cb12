"""Specifications of components as version 0.1.0 kept them, in Azure's JSON."""

from typing import Any

WS = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
STORED = "azureml://datastores/workspaceblobstore/paths"
COMMAND: dict[str, Any] = {
    "$schema": "https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json",
    "name": "read_text",
    "version": "3",
    "type": "command",
    "is_deterministic": "True",
    "display_name": "Read",
    "tags": {"a": 1},
    "inputs": {
        "rows": {"type": "uri_folder", "optional": "True"},
        "limit": {"type": "integer", "default": "3", "min": "1", "max": "9", "description": " how many "},
        "word": {"enum": ["a", "b"]},
    },
    "outputs": {"out": {"type": "uri_file"}, "more": None},
    "command": " echo ${{inputs.limit}} ",
    "code": f"{WS}/codes/c1/versions/1",
    "environment": "azureml:small:2",
    "resources": {"instance_count": 2},
    "distribution": {"type": "pytorch", "process_count_per_instance": 3},
    "environment_variables": {"A": 1},
}
PIPELINE: dict[str, Any] = {
    "name": "say",
    "version": "1",
    "type": "pipeline",
    "inputs": {"n": {"type": "integer"}},
    "outputs": {"a": {"type": "uri_folder"}},
    "jobs": {
        "first": {
            "type": "command",
            "componentId": "azureml://registries/azureml/components/import_model/labels/latest",
            "inputs": {
                "n": {"value": "${{parent.inputs.n}}", "job_input_type": "literal"},
                "file": {"uri": f"{STORED}/a/b.csv", "job_input_type": "uri_file"},
                "web": {"path": "https://host/folder/iris.csv", "type": "uri_file"},
                "before": {"uri": "azureml://jobs/j/outputs/o/paths/x", "job_input_type": "uri_folder"},
                "data": {"uri": f"{WS}/data/talks/labels/latest", "job_input_type": "uri_folder"},
                "plain": 3,
                "none": None,
            },
            "outputs": {
                "a": {"value": "${{parent.outputs.a}}", "type": "literal"},
                "b": {"uri": f"{STORED}/out/", "job_output_type": "uri_folder", "name": "mm", "version": "3"},
                "c": "${{parent.outputs.c}}",
            },
            "resources": {"instance_count": "${{parent.inputs.n}}", "shmSize": "4g"},
            "distribution": {"distribution_type": "PyTorch", "processCountPerInstance": "2"},
            "limits": {"timeout": "PT1M40S"},
            "environment_variables": {"X": 1},
        },
        "second": {
            "component": "azureml:azureml_anonymous:abc",
            "compute": "${{parent.inputs.n}}",
            "limits": {"timeout": "${{parent.inputs.n}}"},
        },
        "third": {"component": f"{WS}/components/other/versions/7", "type": "pipeline", "x-retries": "2"},
    },
}
