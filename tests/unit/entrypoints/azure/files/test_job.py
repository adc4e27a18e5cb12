"""Jobs and nodes of `az ml` files, as the Azure SDK sends them."""

import pytest

from mafunzo.entities.reference import AssetReference, PathInput
from mafunzo.entrypoints.azure.files.job import ANONYMOUS, job_body
from mafunzo.entrypoints.azure.files.keys import faults_of
from mafunzo.entrypoints.azure.files.kind import FileKind
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.wire.component import component_from_spec
from mafunzo.entrypoints.azure.wire.job import job_from_body


class Elsewhere:
    """Gives every local thing an address that tells what it was, and keeps the components that stood in place."""

    def __init__(self):
        self.components = []

    def uri(self, where, path, kind):
        return f"azureml://datastores/workspaceblobstore/paths/{path.removeprefix('./')}"

    def code(self, where, path, includes=()):
        return "azureml:code:1"

    def inputs(self, where, component):
        return None

    def note(self, where, text):
        raise AssertionError(text)

    def environment(self, where, spec):
        return "azureml:environment:1"

    def conda(self, where, path):
        return {"dependencies": ["python=3.11"]}

    def component(self, where, spec):
        self.components.append(spec)
        return f"azureml:{ANONYMOUS}:{len(self.components)}"

    def model(self, where, spec):
        return f"azureml:{spec['name']}:1"

    def outputs(self, where, component):
        return {"file": "uri_file"}


def test_numbers_may_be_written_as_texts():
    document = {"type": "command", "command": "a", "limits": {"timeout": "30"}}
    assert not faults_of(FileKind.JOB, document)
    assert job_body(document, Elsewhere())["properties"]["limits"]["timeout"] == "PT30S"


def test_a_command_jobs_body_is_read_as_the_sdks_would_be():
    document = {
        "type": "command",
        "command": "echo ${{inputs.a}}",
        "code": "./src",
        "environment": "azureml:plain:1",
        "compute": "azureml:cluster",
        "inputs": {"a": 3, "model": {"type": "mlflow_model", "path": "azureml:m@latest"}, "none": None},
        "outputs": {"out": {"mode": "rw_mount"}},
        "resources": {"instance_count": 2},
        "distribution": {"type": "pytorch", "process_count_per_instance": 2},
        "limits": {"timeout": 60},
    }
    asked = job_from_body("one", job_body(document, Elsewhere()))
    component, source = asked.commands["command"].component, asked.commands["command"].source
    assert (source.code, source.environment) == (AssetReference("code", "1"), AssetReference("plain", "1"))
    assert (component.resources.processes, asked.computes) == (4, {"compute": "cluster"})
    assert asked.inputs["a"] == "3" and set(asked.inputs) == {"a", "model"}
    model = asked.inputs["model"]
    assert isinstance(model, PathInput) and model.text.endswith("/models/m/labels/latest")
    assert asked.pipeline.nodes["command"].timeout_s == 60


def test_a_sweep_is_read_as_the_sdks_would_be():
    document = {
        "type": "sweep",
        "search_space": {"a": {"type": "choice", "values": [1, 2]}, "b": {"type": "normal", "mu": 1, "sigma": 2}},
        "sampling_algorithm": "bayesian",
        "objective": {"goal": "maximize", "primary_metric": "score"},
        "early_termination": {"type": "truncation_selection", "truncation_percentage": 20},
        "limits": {"max_total_trials": 5, "timeout": 60, "trial_timeout": 30},
        "trial": {"command": "echo ${{search_space.a}} ${{search_space.b}}", "code": "./src"},
    }
    body = job_body(document, Elsewhere())
    assert body["properties"]["samplingAlgorithm"] == {"samplingAlgorithmType": "Bayesian"}
    asked = job_from_body("one", body)
    assert asked.sweep is not None
    assert (asked.sweep.goal, asked.sweep.metric, asked.sweep.max_trials) == ("maximize", "score", 5)
    assert {name: (one.kind, one.arguments) for name, one in asked.sweep.space.items()} == {
        "a": ("choice", (1, 2)),
        "b": ("normal", (1, 2)),
    }
    assert asked.sweep.early_termination is not None and asked.sweep.early_termination.percent == 20
    assert (asked.sweep.timeout_s, asked.pipeline.nodes["trial"].timeout_s) == (60, 30)
    assert asked.commands["command"].source.code == AssetReference("code", "1")


def test_a_command_in_a_pipeline_is_a_component_of_what_it_is_given():
    document = {
        "type": "pipeline",
        "inputs": {"count": 3, "rows": {"type": "uri_file", "path": "./rows.jsonl"}, "g.rate": 0.5},
        "outputs": {"out": {"type": "mltable"}},
        "jobs": {
            "first": {"component": "./component.yml"},
            "second": {
                "command": "x",
                "inputs": {
                    "count": "${{parent.inputs.count}}",
                    "rows": {"path": "${{parent.inputs.rows}}", "mode": "download"},
                    "file": "${{parent.jobs.first.outputs.file}}",
                    "literal": 0.5,
                    "is_it": True,
                    "word": "a",
                    "grouped": "${{parent.inputs.g.rate}}",
                    "text": "a-${{parent.inputs.count}}",
                },
                "outputs": {"out": "${{parent.outputs.out}}", "more": None},
            },
            "third": {"command": "y", "inputs": {"more": "${{parent.jobs.second.outputs.more}}"}},
        },
    }
    local = Elsewhere()
    asked = job_from_body("one", job_body(document, local))
    spec = next(found for found in local.components if isinstance(found, dict) and found["command"] == "x")
    component = component_from_spec(spec, "x")
    assert {name: given.type for name, given in component.inputs.items()} == {
        "count": "integer",
        "rows": "uri_file",
        "file": "uri_file",
        "literal": "number",
        "is_it": "boolean",
        "word": "string",
        "grouped": "number",
        "text": "string",
    }
    assert {name: given.type for name, given in component.outputs.items()} == {"out": "mltable", "more": "uri_folder"}
    assert local.components.count("./component.yml") == 1
    assert asked.pipeline.nodes["second"].inputs["rows"] == "${{parent.inputs.rows}}"
    assert asked.inputs["rows"] == PathInput(
        parse_reference("azureml://datastores/workspaceblobstore/paths/rows.jsonl"),
        "uri_file",
        "azureml://datastores/workspaceblobstore/paths/rows.jsonl",
    )


@pytest.mark.parametrize(
    ("output", "body"),
    [
        pytest.param(None, {"jobOutputType": "uri_folder"}, id="nothing said"),
        pytest.param({"mode": "upload"}, {"mode": "Upload", "jobOutputType": "uri_folder"}, id="a mode"),
        pytest.param(
            {"name": "kept", "version": 3, "path": "azureml://datastores/workspaceblobstore/paths/x"},
            {
                "uri": "azureml://datastores/workspaceblobstore/paths/x",
                "jobOutputType": "uri_folder",
                "assetName": "kept",
                "assetVersion": "3",
            },
            id="an asset at a path",
        ),
    ],
)
def test_an_output_goes_where_the_file_says(output, body):
    document = {"command": "x", "outputs": {"out": output}}
    assert job_body(document, Elsewhere())["properties"]["outputs"] == {"out": body}


@pytest.mark.parametrize(
    ("spec", "body"),
    [
        pytest.param(3, {"value": "3", "jobInputType": "literal"}, id="a literal is a text"),
        pytest.param(
            {"type": "uri_file", "path": "./a.csv", "mode": "ro_mount"},
            {
                "uri": "azureml://datastores/workspaceblobstore/paths/a.csv",
                "jobInputType": "uri_file",
                "mode": "ReadOnlyMount",
            },
            id="a local path is uploaded",
        ),
        pytest.param({"type": "integer", "default": 2}, {"value": "2", "jobInputType": "literal"}, id="a default"),
    ],
)
def test_an_input_is_a_literal_or_an_address(spec, body):
    document = {"command": "x", "inputs": {"a": spec}}
    assert job_body(document, Elsewhere())["properties"]["inputs"] == {"a": body}
