"""Jobs in Azure's JSON: what the SDK sends for a command and for a pipeline, and what it gets back."""

from datetime import UTC, datetime
from typing import Any

import pytest

from mafunzo.entities.asset import AssetType
from mafunzo.entities.component import COMPUTE, INSTANCES, PROCESSES, TIMEOUT, Source
from mafunzo.entities.job import Destination, Job, JobStatus
from mafunzo.entities.job_request import JobChange, changed
from mafunzo.entities.reference import AssetReference, PathInput
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.wire.job import change_from_body, job_body, job_from_body
from mafunzo.errors import InvalidParameter, NotSupported

WS = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
CSV = "azureml://datastores/workspaceblobstore/paths/a/b.csv"
COMMAND: dict[str, Any] = {
    "properties": {
        "displayName": "disp",
        "description": "d",
        "command": "python a.py --x ${{inputs.x}} --d ${{inputs.d}} --o ${{outputs.o}}",
        "codeId": f"{WS}/codes/c1/versions/1",
        "computeId": f"{WS}/computes/cpu",
        "experimentName": "exp",
        "isArchived": False,
        "inputs": {
            "x": {"value": "3", "jobInputType": "literal"},
            "d": {"uri": CSV, "mode": "ReadOnlyMount", "jobInputType": "uri_file"},
        },
        "outputs": {"o": {"assetName": "myout", "jobOutputType": "uri_folder", "assetVersion": "1"}},
        "environmentId": f"{WS}/environments/e/versions/1",
        "distribution": {"processCountPerInstance": 2, "distributionType": "PyTorch"},
        "tags": {"t": "1"},
        "environmentVariables": {"A": "b"},
        "resources": {"instanceCount": 3, "shmSize": "4g"},
        "limits": {"timeout": "PT1M40S", "jobLimitsType": "Command"},
        "jobType": "Command",
    }
}
LITERAL = {"job_input_type": "literal"}
PIPELINE: dict[str, Any] = {
    "properties": {
        "displayName": "outer",
        "experimentName": "xx",
        "jobs": {
            "i": {
                "type": "pipeline",
                "inputs": {"n": {"value": "${{parent.inputs.n}}", **LITERAL}, "f": {"value": "${{parent.inputs.f}}", **LITERAL}},
                "outputs": {"model": {"mode": "Upload", "job_output_type": "mlflow_model", "name": "mm", "version": "3"}},
                "componentId": f"{WS}/components/inner/versions/1",
            },
            "t": {
                "type": "command",
                "computeId": f"{WS}/computes/gpu",
                "environment_variables": {"X": "1"},
                "inputs": {"d": {"value": "${{parent.jobs.i.outputs.model}}", **LITERAL}, "u": {"uri": CSV, "job_input_type": "uri_file"}},
                "outputs": {"m": {"value": "${{parent.outputs.a}}", "type": "literal"}},
                "componentId": f"{WS}/components/train/versions/1",
            },
        },
        "inputs": {"n": {"value": "5", "jobInputType": "literal"}},
        "outputs": {"a": {"assetName": "reg", "uri": "azureml://datastores/workspaceblobstore/paths/out/", "jobOutputType": "mlflow_model"}},
        "settings": {"default_compute": "cpu", "continue_on_step_failure": True, "force_rerun": True},
        "jobType": "Pipeline",
    }
}  # fmt: skip


def test_a_command_is_a_pipeline_of_one_step() -> None:
    asked = job_from_body("j", COMMAND)
    component, source = asked.commands["command"].component, asked.commands["command"].source
    assert source == Source(
        AssetReference("c1", "1", type=AssetType.CODE), AssetReference("e", "1", type=AssetType.ENVIRONMENT)
    )
    assert {name: declared.type for name, declared in component.inputs.items()} == {"x": "string", "d": "uri_file"}
    assert (component.resources.processes, dict(component.environment)) == (6, {"A": "b"})
    assert asked.inputs == {"x": "3", "d": PathInput(parse_reference(CSV), "uri_file", CSV)}
    assert asked.destinations == {"o": Destination("uri_folder", "myout", "1")}
    (node,) = asked.pipeline.nodes.values()
    assert (node.timeout_s, node.inputs["x"], node.outputs["o"]) == (
        100,
        "${{parent.inputs.x}}",
        "${{parent.outputs.o}}",
    )
    assert (asked.computes, asked.experiment, asked.tags) == ({"compute": "cpu"}, "exp", {"t": "1"})


def test_a_pipelines_nodes_are_read_with_what_they_are_bound_to() -> None:
    asked = job_from_body("j", PIPELINE)
    inner, train = asked.pipeline.nodes["i"], asked.pipeline.nodes["t"]
    assert inner.inputs == {"n": "${{parent.inputs.n}}"}, "f wasn't given, so that nothing is bound to it"
    assert inner.destinations == {"model": Destination("mlflow_model", "mm", "3")} and not inner.outputs
    assert train.inputs == {
        "d": "${{parent.jobs.i.outputs.model}}",
        "u": PathInput(parse_reference(CSV), "uri_file", CSV),
    }
    assert (train.outputs, dict(train.environment)) == ({"m": "${{parent.outputs.a}}"}, {"X": "1"})
    assert asked.destinations == {"a": Destination("mlflow_model", "reg", "", "out")}
    assert (asked.force_rerun, asked.continue_on_step_failure) == (True, True)
    assert asked.computes == {"default_compute": "cpu", "compute of 't'": "gpu"}


def with_node(**node: Any) -> dict[str, Any]:
    return with_properties(PIPELINE, jobs={"a": {"type": "command", "componentId": "c", **node}})


def test_what_a_node_has_bound_besides_its_inputs_is_kept_as_written() -> None:
    body = with_node(
        computeId="${{parent.inputs.n}}",
        resources={"instance_count": "${{parent.inputs.n}}"},
        distribution={"distribution_type": "PyTorch", "process_count_per_instance": 4},
        limits={"timeout": "${{parent.inputs.f}}"},
    )
    asked = job_from_body("j", body)
    node = asked.pipeline.nodes["a"]
    assert node.bound == {COMPUTE: "${{parent.inputs.n}}", INSTANCES: "${{parent.inputs.n}}"}, "f wasn't given"
    assert (node.resources.processes if node.resources else 0, node.is_distributed, node.timeout_s) == (4, True, 0)
    assert asked.computes == {"default_compute": "cpu"}
    several = with_node(
        resources={"instance_count": "2"},
        distribution={"processCountPerInstance": "${{parent.inputs.n}}"},
        limits={"timeout": "${{parent.inputs.n}}"},
    )
    node = job_from_body("j", several).pipeline.nodes["a"]
    assert node.bound == {PROCESSES: "${{parent.inputs.n}}", TIMEOUT: "${{parent.inputs.n}}"}
    assert node.resources and node.resources.processes == 2


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"resources": {"instance_count": "two"}}, "resources.instance_count is 'two', expected a whole number"),
        ({"resources": {"instance_count": 0}}, "resources.instance_count is 0, expected a whole number, 1 or more"),
        ({"resources": {"x-gpus": [1]}}, r"resources.x-gpus is \[1\], expected a whole number, 0 or more"),
        (
            {"distribution": {"processCountPerInstance": 1.5}},
            "distribution.process_count_per_instance is 1.5, expected",
        ),
        ({"distribution": {"process_count_per_instance": 10**400}}, "distribution.process_count_per_instance is 10"),
        ({"distribution": {"process_count_per_instance": 65}}, "distribution asks for 65 processes in all"),
        ({"limits": {"timeout": "soon"}}, "limits.timeout: 'soon' isn't a duration"),
        ({"x-retries": "some"}, "x-retries is 'some', expected a whole number, 0 or more"),
    ],
)
def test_a_number_that_is_none_is_told_with_its_node_and_field(node: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidParameter, match=f"Node 'a': {told}"):
        job_from_body("j", with_node(**node))


def test_a_number_of_a_command_job_is_told_with_its_field() -> None:
    with pytest.raises(InvalidParameter, match=r"Job 'j': resources\.instance_count is 'two', expected"):
        job_from_body("j", with_properties(COMMAND, resources={"instanceCount": "two"}))


def with_properties(body: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"properties": {**body["properties"], **properties}}


@pytest.mark.parametrize(
    ("body", "error", "told"),
    [
        pytest.param(with_properties(COMMAND, jobType="Spark"), NotSupported, "is a Spark job", id="another kind"),
        pytest.param(with_properties(COMMAND, command=""), InvalidParameter, "has no command", id="no command"),
        pytest.param(with_properties(PIPELINE, jobs={}), InvalidParameter, "has no nodes", id="no nodes"),
        pytest.param(
            with_properties(PIPELINE, jobs={"a": {"type": "parallel"}, "b": {"type": "do_while"}}),
            NotSupported,
            "'a' is of the type parallel(.|\n)*'b' is of the type do_while",
            id="kinds of nodes, all at once",
        ),
        pytest.param(
            with_properties(COMMAND, limits={"timeout": "soon"}), InvalidParameter, "isn't a duration", id="a limit"
        ),
        pytest.param(
            with_properties(COMMAND, outputs={"o": {"uri": "https://x/y"}}), NotSupported, "can go to", id="elsewhere"
        ),
        pytest.param(
            with_properties(COMMAND, resources={"instanceCount": 40}), InvalidParameter, "80 processes", id="too many"
        ),
    ],
)
def test_what_cannot_be_run_is_refused(body: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        job_from_body("j", body)


def made(body: dict[str, Any], **more: Any) -> Job:
    asked = job_from_body("j", body)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return Job("j", asked.display_name, asked.experiment, "c:1", echoes=asked.echoes, created_at=at, **more)


def test_a_job_comes_back_as_it_was_sent_with_its_state() -> None:
    shown = job_body(made(COMMAND, status=JobStatus.RUNNING), "https://here/jobs")["properties"]
    assert {name: shown[name] for name in ("command", "codeId", "environmentId", "limits", "inputs")} == {
        name: COMMAND["properties"][name] for name in ("command", "codeId", "environmentId", "limits", "inputs")
    }
    assert (shown["jobType"], shown["status"], "jobs" in shown) == ("Command", "Running", False)
    assert shown["outputs"]["o"]["uri"] == "azureml://jobs/j/outputs/o"
    assert job_body(made(PIPELINE), "https://here/jobs")["properties"]["jobs"] == PIPELINE["properties"]["jobs"]


def test_a_patch_changes_only_what_it_names() -> None:
    job = made(COMMAND)
    renamed = changed(job, change_from_body({"displayName": "new", "tags": {"b": 1}, "description": "about"}))
    assert (renamed.display_name, renamed.tags) == ("new", {"b": "1"})
    assert job_body(renamed, "")["properties"]["description"] == "about"
    hidden = changed(renamed, change_from_body({"hidden": True}))
    assert hidden.is_archived and not renamed.is_archived and hidden.tags == {"b": "1"}
    assert changed(job, JobChange()) == job
