"""Tests of `mafunzo.entities.component_file`."""

from typing import Any

import pytest

from mafunzo.entities.component import COMPUTE, INSTANCES, TIMEOUT, Input, Node, Output
from mafunzo.entities.component_file import component_from_dict, input_from_dict, node_from_dict
from mafunzo.entities.job import Resources
from mafunzo.entities.reference import AssetReference, PathInput, WebAddress
from mafunzo.errors import InvalidFile, InvalidParameter, NotSupported

COMMAND: dict[str, Any] = {
    "name": "copy",
    "type": "command",
    "is_deterministic": "false",
    "inputs": {
        "rows": {"type": "uri_folder", "optional": True},
        "limit": {
            "type": "integer",
            "default": 3,
            "min": "1",
            "max": 9,
            "x-aliases": ["most"],
            "x-refused": {"5": "no"},
        },
    },
    "outputs": {"rows": {"type": "uri_folder"}},
    "command": " cp ${{inputs.rows}} ${{outputs.rows}} ",
    "resources": {"instance_count": 2, "x-cpus": 4, "x-gpus-if-any": 1},
    "distribution": {"type": "pytorch", "process_count_per_instance": 3},
    "environment_variables": {"A": 1},
}


def test_a_command_is_read_with_its_interface_and_what_it_holds() -> None:
    component = component_from_dict(COMMAND, "copy.yml")
    assert (component.name, component.version, component.display_name) == ("copy", "1", "copy")
    assert component.inputs["rows"] == Input("rows", "uri_folder", is_optional=True)
    limit = Input("limit", "integer", default=3, minimum=1, maximum=9, aliases=("most",), refused={"5": "no"})
    assert component.inputs["limit"] == limit
    assert component.outputs == {"rows": Output("rows", "uri_folder")}
    assert component.resources == Resources(cpus=4, gpus_if_any=1, processes=6)
    assert (component.command, component.environment) == ("cp ${{inputs.rows}} ${{outputs.rows}}", {"A": "1"})
    assert not component.is_deterministic


def test_all_faults_of_an_interface_come_at_once() -> None:
    body = {
        "type": "sweep",
        "inputs": {"a": {"type": "float"}, "b": {"min": "low"}},
        "outputs": {"o": {"type": "string"}},
    }
    with pytest.raises(InvalidFile) as refused:
        component_from_dict(body, "x.yml")
    assert refused.value.message == "x.yml: not a component that can be used."
    assert [fault.split(",")[0] for fault in refused.value.faults] == [
        "type is 'sweep'",
        "name is missing.",
        "jobs is missing.",
        "input a has the type 'float'",
        "input b has min 'low'",
        "output o has the type 'string'",
    ]


def test_a_node_names_a_component_that_ships_and_keeps_what_is_bound() -> None:
    bound = "${{parent.inputs.n}}"
    body = {
        "component": "finetune",
        "compute": bound,
        "inputs": {"rows": "${{parent.jobs.a.outputs.rows}}", "none": None},
        "outputs": {"rows": "${{parent.outputs.rows}}"},
        "resources": {"instance_count": bound},
        "limits": {"timeout": bound},
        "x-retries": 2,
    }
    assert node_from_dict("b", body) == Node(
        "b",
        "finetune",
        inputs={"rows": "${{parent.jobs.a.outputs.rows}}", "none": None},
        outputs={"rows": "${{parent.outputs.rows}}"},
        resources=Resources(cpus=0),
        retries=2,
        bound={INSTANCES: bound, TIMEOUT: bound, COMPUTE: bound},
    )


@pytest.mark.parametrize(
    ("body", "error", "told"),
    [
        pytest.param({"type": "parallel"}, NotSupported, "Node 'a' is of the type parallel", id="another kind"),
        pytest.param({"x-retries": "some"}, InvalidParameter, "Node 'a': x-retries is 'some'", id="no number"),
        pytest.param({"limits": {"timeout": "soon"}}, InvalidParameter, "Node 'a': limits.timeout: 'soon'", id="limit"),
        pytest.param(
            {"distribution": {"process_count_per_instance": 65}}, InvalidParameter, "asks for 65 processes", id="many"
        ),
        pytest.param(
            {"distribution": {"distribution_type": "Ray"}},
            NotSupported,
            "Node 'a': the distribution RayDistribution isn't supported",
            id="ray",
        ),
        pytest.param(
            {"distribution": {"type": "tensorflow", "worker_count": 2}},
            NotSupported,
            "Node 'a': the distribution TensorFlowDistribution isn't supported",
            id="tensorflow's workers",
        ),
        pytest.param(
            {"distribution": {"type": "TensorFlow", "parameter_server_count": 1}},
            NotSupported,
            "TensorFlowDistribution",
            id="tensorflow's servers",
        ),
        pytest.param(
            {"distribution": {"type": "spark"}},
            NotSupported,
            "the distribution 'spark' isn't",
            id="another distribution",
        ),
    ],
)
def test_a_node_that_cannot_run_is_refused(body: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        node_from_dict("a", body)


@pytest.mark.parametrize(
    "distribution",
    [
        {"type": "TensorFlow"},
        {"distribution_type": "tensorflow", "worker_count": 1, "parameter_server_count": 0},
        {"type": "Mpi"},
        {"distribution_type": "PyTorch", "process_count_per_instance": 1},
    ],
)
def test_a_distribution_over_one_process_is_what_happens_anyway(distribution: dict[str, Any]) -> None:
    component = component_from_dict({**COMMAND, "resources": {}, "distribution": distribution}, "copy.yml")
    assert component.resources is not None
    assert component.resources.processes == 1


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param(3, 3, id="a value"),
        pytest.param(["a"], ["a"], id="what is no value stays, for the plan to refuse"),
        pytest.param({"value": True}, True, id="a value in a mapping"),
        pytest.param({"path": "${{parent.inputs.x}}"}, "${{parent.inputs.x}}", id="a binding as a path"),
        pytest.param({"type": "uri_file"}, None, id="nothing"),
        pytest.param(
            {"path": "talks:2", "type": "uri_file"},
            PathInput(AssetReference("talks", "2"), "uri_file", "talks:2"),
            id="an asset",
        ),
        pytest.param(
            {"path": "https://host/a/b.csv"},
            PathInput(WebAddress("https://host/a/b.csv"), "uri_folder", "https://host/a/b.csv"),
            id="a file of the web",
        ),
    ],
)
def test_an_input_is_a_value_a_binding_or_a_path(written: Any, read: Any) -> None:
    assert input_from_dict(written) == read
