"""Tests of `mafunzo.control.store.neutral_jobs`: rows of version 4, literally, and what the product of today makes of them."""

from typing import Any

import pytest

from mafunzo.control.store.codec import decode, encode
from mafunzo.control.store.neutral_jobs import neutral_asset, neutral_component, neutral_job, neutral_source
from mafunzo.entities.component import Component, Source
from mafunzo.entities.job import Job
from mafunzo.entrypoints.azure.wire.component import component_from_spec, source_of

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


@pytest.mark.parametrize("spec", [COMMAND, PIPELINE], ids=["command", "pipeline"])
def test_a_component_is_what_it_was(spec):
    component, source = component_from_spec(spec, "x"), source_of(spec)
    assert neutral_component(spec) == encode(component)
    assert decode(Component, neutral_component(spec)) == component
    assert decode(Source, neutral_source(spec)) == source


def test_a_components_row_keeps_its_specification_as_the_echo():
    properties = {"spec": COMMAND, "properties": {"mine": "1"}}
    row = neutral_asset({"description": "d", "properties": properties})
    assert row["echoes"] == {"azure": {"componentSpec": COMMAND}}
    assert row["description"] == "d" and set(row["properties"]) == {"component", "source", "user_properties"}
    assert row["properties"]["user_properties"] == {"mine": "1"}


BASE: dict[str, Any] = {"display_name": "j", "experiment": "e", "component": "c:1", "inputs": {}}
SENT: dict[str, Any] = {
    "properties": {"jobType": "Command", "description": "about", "properties": {"mine": "1"}, "command": "true"}
}


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        pytest.param(
            {"azureml_body": SENT, "is_archived": True, "best_trial": "t"},
            Job("j", "j", "e", "c:1", properties={"best_trial": "t"}, description="about", user_properties={"mine": "1"},
                is_archived=True, echoes={"azure": SENT}),
            id="a job that came over the wire",
        ),
        pytest.param({}, Job("j", "j", "e", "c:1"), id="a job of the command line"),
        pytest.param(
            {"azureml_body": {"properties": {"description": "about"}}},
            Job("j", "j", "e", "c:1", description="about"),
            id="a job of the command line of which a client changed the description",
        ),
    ],
)  # fmt: skip
def test_a_jobs_row_has_its_body_as_the_echo(properties, expected):
    row = neutral_job({**BASE, "properties": properties})
    assert decode(Job, {"name": "j", **row}) == expected
