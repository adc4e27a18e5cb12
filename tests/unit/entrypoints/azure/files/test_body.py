import pytest

from mafunzo.entities.reference import AssetReference, PathInput
from mafunzo.entrypoints.azure.files.body import body_of
from mafunzo.entrypoints.azure.files.job import ANONYMOUS
from mafunzo.entrypoints.azure.files.keys import faults_of, mended
from mafunzo.entrypoints.azure.files.kind import FileKind, kind_of, with_type
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.wire.component import component_from_spec
from mafunzo.entrypoints.azure.wire.job import job_from_body
from mafunzo.errors import InvalidFile, NotSupported

SCHEMA = "https://azuremlschemas.azureedge.net/latest/{}.schema.json"


class Elsewhere:
    """Gives every local thing an address that tells what it was, and keeps the components that stood in place."""

    def __init__(self):
        self.components = []

    def uri(self, where, path, kind):
        return f"azureml://datastores/workspaceblobstore/paths/{path.removeprefix('./')}"

    def code(self, where, path):
        return "azureml:code:1"

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


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"$schema": SCHEMA.format("model")}, FileKind.MODEL),
        ({"$schema": SCHEMA.format("amlCompute")}, FileKind.COMPUTE),
        ({"$schema": SCHEMA.format("commandComponent")}, FileKind.COMPONENT),
        ({"$schema": SCHEMA.format("pipelineJob")}, FileKind.JOB),
        ({"$schema": SCHEMA.format("managedOnlineDeployment")}, FileKind.DEPLOYMENT),
        ({"name": "a", "type": "mlflow_model", "path": "x"}, FileKind.MODEL),
        ({"name": "a", "type": "uri_file", "path": "x"}, FileKind.DATA),
        ({"name": "a", "conda_file": "x"}, FileKind.ENVIRONMENT),
        ({"name": "a", "type": "amlcompute"}, FileKind.COMPUTE),
        ({"name": "a", "auth_mode": "key"}, FileKind.ENDPOINT),
        ({"name": "a", "endpoint_name": "b"}, FileKind.DEPLOYMENT),
        ({"name": "a", "version": 1, "command": "x"}, FileKind.COMPONENT),
        ({"command": "x", "inputs": {"a": {"type": "integer"}}}, FileKind.COMPONENT),
        ({"command": "x", "inputs": {"a": {"type": "uri_file", "path": "b"}}}, FileKind.JOB),
        ({"command": "x", "compute": "azureml:c"}, FileKind.JOB),
        ({"type": "pipeline", "jobs": {}, "settings": {}}, FileKind.JOB),
    ],
)
def test_a_file_is_known_by_its_schema_or_its_keys(document, kind):
    assert kind_of(document, "some.yml") is kind


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("batchDeployment", "Batch endpoints"),
        ("kubernetesOnlineEndpoint", "Kubernetes isn't used"),
        ("schedule", "Schedules aren't kept"),
        ("autoMLNLPTextClassificationJob", "AutoML isn't run"),
    ],
)
def test_what_does_not_run_here_is_refused_by_its_schema(schema, told):
    with pytest.raises(NotSupported, match=f"some.yml: {told}"):
        kind_of({"$schema": SCHEMA.format(schema)}, "some.yml")


def test_an_unknown_schema_is_named():
    with pytest.raises(InvalidFile, match=r"some.yml: \$schema is '.*/pie.schema.json', expected a file of one of"):
        kind_of({"$schema": SCHEMA.format("pie")}, "some.yml")


def test_the_type_that_a_schema_stands_for_need_not_be_written():
    assert with_type({"$schema": SCHEMA.format("pipelineJob")})["type"] == "pipeline"
    assert "type" not in with_type({"command": "x"})


@pytest.mark.parametrize(
    ("kind", "document", "told"),
    [
        (FileKind.MODEL, {"name": "a"}, "path: missing."),
        (FileKind.MODEL, {"name": "a", "path": "b", "tags": "c"}, "tags: 'c', expected a mapping."),
        (FileKind.JOB, {"command": "a", "comand": "b"}, "comand: unknown key. Did you mean command?"),
        (FileKind.JOB, {"command": "a", "services": {}}, "services: services to talk to aren't run beside a job here."),
        (FileKind.JOB, {"command": "a", "limits": {"timeot": 3}}, "limits.timeot: unknown key. Did you mean timeout?"),
        (FileKind.JOB, {"command": "a", "inputs": {"b": [1]}}, "inputs.b: a list, expected a mapping."),
        (FileKind.JOB, {"type": "spark"}, "type: 'spark', expected command or pipeline or sweep. Spark isn't run here"),
        (FileKind.JOB, {"type": "sweep", "trial": {"comand": "a"}}, "trial.comand: unknown key. Did you mean command?"),
        (FileKind.JOB, {"type": "sweep", "trial": {"command": "a"}}, "search_space: missing."),
        (FileKind.COMPUTE, {"name": "a", "size": {}}, "size: a mapping, expected a text or a number."),
        (FileKind.COMPUTE, {"max_instances": True}, "max_instances: 'True', expected a whole number, 0 or more."),
        (FileKind.COMPUTE, {"min_instances": -1}, "min_instances: '-1', expected a whole number, 0 or more."),
        (
            FileKind.JOB,
            {"resources": {"instance_count": "a"}},
            "resources.instance_count: 'a', expected a whole number",
        ),
        (FileKind.JOB, {"limits": {"timeout": 1.5}}, "limits.timeout: '1.5', expected whole seconds, or an ISO 8601"),
        (
            FileKind.JOB,
            {"type": "sweep", "early_termination": {"type": "bandit", "slack_factor": "a"}},
            "early_termination.slack_factor: 'a', expected a number.",
        ),
        (
            FileKind.JOB,
            {"type": "pipeline", "jobs": {"a": {"type": "spark", "entry": {}}}},
            "jobs.a: a node of the type spark, expected command or pipeline. Spark isn't run here",
        ),
        (FileKind.JOB, {"type": "pipeline", "jobs": {"a": {}}}, "jobs.a: it has neither component nor command"),
    ],
)
def test_a_fault_names_its_key(kind, document, told):
    assert any(fault.text.startswith(told) for fault in faults_of(kind, document))


def test_numbers_may_be_written_as_texts():
    document = {"type": "command", "command": "a", "limits": {"timeout": "30"}}
    assert not faults_of(FileKind.JOB, document)
    assert body_of(FileKind.JOB, document, Elsewhere())["properties"]["limits"]["timeout"] == "PT30S"


def test_the_rest_of_a_file_with_faults_can_be_read():
    document = {"name": "a", "max_instances": "b", "colour": "red", "tags": {"team": "c"}}
    faults = faults_of(FileKind.COMPUTE, document)
    assert all(fault.is_harmless for fault in faults)
    assert mended(document, faults) == {"name": "a", "max_instances": 1, "size": "local", "tags": {"team": "c"}}


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
    asked = job_from_body("one", body_of(FileKind.JOB, document, Elsewhere()))
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
    body = body_of(FileKind.JOB, document, Elsewhere())
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
    asked = job_from_body("one", body_of(FileKind.JOB, document, local))
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
