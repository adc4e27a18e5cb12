"""Creation from files of `az ml`: all faults of a file are told at once, and nothing is stored before."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mafunzo import Workspace
from mafunzo.entrypoints.azure.files.creation import Created, create
from mafunzo.errors import InvalidFile, InvalidParameter, NotSupported
from tests.support.chat_home import Home

FILES = Path(__file__).parents[4] / "sdk" / "files"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A home in which the assets of the files have been made, and whose server never starts."""
    with Home(tmp_path_factory.mktemp("ours") / "home", port=0) as opened:
        for name in ("plain", "compute", "environment", "component", "pipeline_component"):
            create(opened, FILES / f"{name}.yml", {})
        yield opened


def test_all_faults_of_a_file_are_told_at_once_and_nothing_is_stored(ours, tmp_path):
    document = yaml.safe_load((FILES / "pipeline_job.yml").read_text())
    document["experimentname"] = "files"
    document["inputs"]["rows"]["path"] = "nowhere.jsonl"
    document["jobs"]["local_component"] = {"component": "./component.yml"}
    document["jobs"]["registered"]["inpts"] = {}
    (tmp_path / "pipeline_component.yml").write_text("type: pipeline\nname: empty\n")
    (tmp_path / "component.yml").write_text(
        "name: x\ncommand: echo\ncode: missing\nenvironment: {image: x, conda_file: none.yml}\ninputs: {a: {type: int}}\n"
    )
    (tmp_path / "job.yml").write_text(yaml.safe_dump(document))
    before = len(ours.artifacts.hashes())
    with pytest.raises(InvalidFile) as refused:
        create(ours, tmp_path / "job.yml", {})
    assert refused.value.message == f"{tmp_path / 'job.yml'} can't be used."
    told = "\n".join(refused.value.faults)
    for fault in (
        "experimentname: unknown key. Did you mean experiment_name?",
        f"inputs.rows.path: there is no {tmp_path / 'nowhere.jsonl'}.",
        f"jobs.local_component.component (component.yml): code: there is no {tmp_path / 'missing'}.",
        "jobs.local_component.component (component.yml): environment.conda_file: there is no ",
        "jobs.local_component.component: input a has the type 'int', expected one of string, integer",
        "jobs.nested.component: jobs: missing.",
        "jobs.registered.inpts: unknown key. Did you mean inputs?",
    ):
        assert fault in told
    assert len(ours.artifacts.hashes()) == before


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (
            {"endpoint_name": "rows", "type": "pipeline", "component": "x.yml"},
            "A pipeline component isn't deployed here",
        ),
        ({"$schema": "https://azuremlschemas.azureedge.net/latest/schedule.schema.json"}, "Schedules aren't kept"),
        ({"type": "kubernetes", "name": "k8s", "resource_id": "x"}, "Kubernetes isn't used here"),
        ({"type": "computeinstance", "name": "ci"}, "A compute instance is a machine to work at"),
        ({"type": "spark", "entry": {"file": "x.py"}}, "Spark isn't run here"),
    ],
)
def test_what_does_not_run_here_is_refused(document, told, ours, tmp_path):
    (tmp_path / "some.yml").write_text(yaml.safe_dump(document))
    with pytest.raises(NotSupported, match=told):
        create(ours, tmp_path / "some.yml", {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("[1]", "holds no mapping of keys", id="no mapping"),
        pytest.param("a: [", "isn't YAML", id="no YAML"),
        pytest.param("colour: red", "its keys are colour, expected a file of one of these: model, data", id="no kind"),
        pytest.param("command: [a]\ncompute: local", "command: a list, expected a text or a number.", id="no text"),
        pytest.param("size: STANDARD_DS3_v2\nname: a\ntier: high", "tier: 'high', expected", id="no tier"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(text, told, ours, tmp_path):
    (tmp_path / "some.yml").write_text(text)
    with pytest.raises(InvalidFile) as refused:
        create(ours, tmp_path / "some.yml", {})
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("name: a\ntype: uri_file\npath: none.jsonl", "path: there is no ", id="data"),
        pytest.param(
            "name: a\ntype: pipeline\nversion: 1\njobs: {b: {component: some.yml}}", "jobs.b.component: ", id="itself"
        ),
        pytest.param("name: a\ncommand: b\ncode: some.yml\nversion: 1", "code: ", id="code that is a file"),
    ],
)
def test_one_thing_wrong_is_one_fault(text, fault, ours, tmp_path):
    (tmp_path / "some.yml").write_text(text)
    with pytest.raises(InvalidFile) as refused:
        create(ours, tmp_path / "some.yml", {})
    assert len(refused.value.faults) == 1 and refused.value.faults[0].startswith(fault)


BROKEN_JOB = """
type: command
command: echo ${{inputs.nothing}}
code: no-such-folder
environment: azureml:no-such-environment:1
compute: azureml:no-such-compute
limits: {timeout: soon}
inputs: {rows: {type: uri_file, path: none.jsonl}}
"""
BROKEN_PIPELINE = """
type: pipeline
settings: {default_compute: azureml:no-such-compute}
jobs:
  first: {component: azureml:no-such-component:1}
  second: {command: "echo ${{inputs.nothing}}", environment: azureml:no-such-environment:1, code: no-such-folder}
"""
SCHEMAS = "https://azuremlschemas.azureedge.net/latest"
AML_COMPUTE = "$schema: https://azuremlschemas.azureedge.net/latest/amlCompute.schema.json"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            BROKEN_JOB,
            [
                "limits.timeout: 'soon', expected whole seconds, or an ISO 8601 duration such as PT120S.",
                "code: there is no ",
                "inputs.rows.path: there is no ",
                "No environment 'no-such-environment:1'",
                "compute is 'no-such-compute', but no compute has that name.",
                "its command uses inputs.nothing, which the component doesn't declare.",
            ],
            id="a command",
        ),
        pytest.param(
            BROKEN_PIPELINE,
            [
                "jobs.second.code: there is no ",
                "jobs.second: No environment 'no-such-environment:1'",
                "step 'first': No component 'no-such-component:1'",
                "default_compute is 'no-such-compute', but no compute has that name.",
            ],
            id="a pipeline",
        ),
        pytest.param(
            "name: 1-bad\nsize: Standard_Nothing\ntier: high\nmin_instances: 4\nmax_instances: 2\n"
            "idle_time_before_scale_down: soon",
            [
                "tier: 'high', expected dedicated or low_priority.",
                "idle_time_before_scale_down: 'soon', expected a whole number, 0 or more.",
                "the name is '1-bad', expected",
                "min_instances and max_instances are 4 and 2, expected",
                "size: No machine size is called 'Standard_Nothing'.",
            ],
            id="a compute",
        ),
        pytest.param(
            "$schema: https://azuremlschemas.azureedge.net/latest/model.schema.json\n"
            "name: bad name\npath: nowhere\ntype: pickle\ntags: [a]",
            [
                "type: 'pickle', expected mlflow_model or custom_model.",
                "tags: a list, expected a mapping.",
                "path: there is no ",
                "The name of model is 'bad name', expected",
            ],
            id="a model",
        ),
        pytest.param(
            "name: bad name\nendpoint_name: nowhere\nmodel: azureml:no-such-model:1\ninstance_count: two\n"
            "request_settings: {request_timeout_ms: abc}\nliveness_probe: {initial_delay: abc}",
            [
                "instance_count: 'two', expected a whole number, 0 or more.",
                "request_settings.request_timeout_ms: 'abc', expected a whole number, 0 or more.",
                "liveness_probe.initial_delay: 'abc', expected a whole number, 0 or more.",
                "The deployment's name is 'bad name', expected",
                "endpoint_name: No endpoint 'nowhere'",
                "model: No base model is called 'no-such-model'.",
            ],
            id="a deployment",
        ),
        pytest.param(
            "name: bad name\nendpoint_name: nowhere\nmodel: azureml:no-such-model:1\ncompute: azureml:no-such-compute\n"
            "settings: {mini_batch_size: many, output_file_name: a.xlsx}",
            [
                "settings.mini_batch_size: 'many', expected a whole number, 0 or more.",
                "The deployment's name is 'bad name', expected",
                "endpoint_name: No batch endpoint 'nowhere'",
                "model: No base model is called 'no-such-model'.",
                "compute is 'no-such-compute', but no compute has that name.",
                "output_file_name is 'a.xlsx'",
            ],
            id="a batch deployment",
        ),
        pytest.param(
            "name: bad name\ndefaults: {deployment_name: blue}\nauth_mode: key",
            [
                "The batch endpoint's name is 'bad name', expected",
                "has auth_mode key. Batch endpoints are opened by token",
            ],
            id="a batch endpoint",
        ),
        pytest.param(
            "endpoint_name: nowhere\nmodel: {name: a, type: pickle, path: none}",
            [
                "model.type: 'pickle', expected",
                "name: missing.",
                "model.path: there is no ",
                "endpoint_name: No endpoint 'nowhere'",
            ],
            id="a model in a deployment",
        ),
        pytest.param(
            "name: a\ntype: uri_file\npath: .", ["path: ", "is a folder, and the type is uri_file."], id="no file"
        ),
        pytest.param(
            "name: a\ntype: uri_folder\npath: some.yml", ["is a file, and the type is uri_folder."], id="no folder"
        ),
        pytest.param("name: a\ntype: mltable\npath: .", ["has no file MLTable"], id="no table"),
        pytest.param(
            f"{AML_COMPUTE}\nname: ab\nsize: local\ntype: a", ["type: 'a', expected amlcompute."], id="no cluster"
        ),
    ],
)
def test_faults_of_every_kind_are_told_in_one_round(text, told, ours, tmp_path):
    (tmp_path / "some.yml").write_text(text)
    before = len(ours.artifacts.hashes())
    with pytest.raises(InvalidFile) as refused:
        create(ours, tmp_path / "some.yml", {})
    faults = refused.value.faults
    assert [one for one in told if not any(one in fault for fault in faults)] == [], faults
    assert not any(".unknown" in fault or "step 'command'" in fault for fault in faults), faults
    assert len(ours.artifacts.hashes()) == before


def test_a_machine_of_another_kind_is_refused_whatever_the_schema_says(ours, tmp_path):
    (tmp_path / "some.yml").write_text(f"{AML_COMPUTE}\nname: other\ntype: kubernetes\nsize: local")
    with pytest.raises(NotSupported, match="Kubernetes isn't used here"):
        create(ours, tmp_path / "some.yml", {})


def test_a_model_in_place_is_registered_once_and_deployed(ours, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    ours.endpoints.create("in-place")
    text = "name: {}\nendpoint_name: in-place\nmodel: {{name: in-place, path: weights, type: custom_model}}\n"
    for name in ("blue", "green"):
        (tmp_path / "some.yml").write_text(text.format(name))
        create(ours, tmp_path / "some.yml", {})
        assert ours.records.deployments.get("in-place", name).model == "in-place:1"


def test_a_change_of_a_key_below_a_text_is_refused(ours):
    with pytest.raises(InvalidParameter, match=r"--set command\.x=1 can't be done"):
        create(ours, FILES / "command_job.yml", {"command.x": "1"})


def test_a_file_without_a_schema_is_known_by_its_keys(ours, tmp_path):
    (tmp_path / "some.yml").write_text("command: echo hi\n")
    assert re.fullmatch("(command|job)-[0-9a-f]{8}", create(ours, tmp_path / "some.yml", {}).name)
    (tmp_path / "some.yml").write_text("name: keyless\ncommand: echo ${{inputs.a}}\ninputs: {a: {type: integer}}\n")
    assert create(ours, tmp_path / "some.yml", {}) == Created("component", "keyless", "1")
    (tmp_path / "some.yml").write_text("name: keyless\ncommand: echo ${{inputs.a}}\ninputs: {a: 1}\n")
    assert create(ours, tmp_path / "some.yml", {}) == Created("job", "keyless")


def test_a_batch_endpoint_and_its_deployment_are_made_and_changed(ours, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    ours.models.register(tmp_path / "model", name="answering")
    (tmp_path / "endpoint.yml").write_text(f"$schema: {SCHEMAS}/batchEndpoint.schema.json\nname: rows\n")
    (tmp_path / "blue.yml").write_text(
        f"$schema: {SCHEMAS}/modelBatchDeployment.schema.json\ntype: model\nname: blue\nendpoint_name: rows\n"
        "model: azureml:answering@latest\nsettings: {mini_batch_size: 4}\n"
    )
    assert create(ours, tmp_path / "endpoint.yml", {}) == Created("batch endpoint", "rows")
    assert create(ours, tmp_path / "blue.yml", {}) == Created("batch deployment", "blue", endpoint="rows")
    create(ours, tmp_path / "endpoint.yml", {"defaults.deployment_name": "blue"})
    assert ours.batch_endpoints.get("rows").default_deployment == "blue"
    create(ours, tmp_path / "blue.yml", {"settings.max_concurrency_per_instance": "3", "tags.team": "a"})
    made = ours.batch_endpoints.deployment("rows", "blue")
    assert (made.model, made.parameters["max_batch"], made.tags) == ("answering:1", 12, {"team": "a"})
    with pytest.raises(InvalidFile) as refused:
        create(ours, tmp_path / "endpoint.yml", {"defaults.deployment_name": "bleu"})
    assert refused.value.faults == ("defaults: Batch endpoint rows has no deployment 'bleu'. Did you mean blue?",)
