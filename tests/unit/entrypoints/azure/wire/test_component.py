"""Components and nodes in Azure's JSON: what they have besides a component's file."""

from typing import Any

import pytest

from mafunzo.control.workspace.shipped_component import shipped
from mafunzo.entities.component import Component, Input, Source
from mafunzo.entities.job import Destination
from mafunzo.entities.reference import AssetReference, PathInput, StoredPath
from mafunzo.entrypoints.azure.wire.component import (
    asset_name,
    component_from_spec,
    component_version_body,
    destination_from_body,
    input_from_body,
    node_from_body,
    request_from_body,
    require_no_services,
    shipped_asset,
    source_of,
)
from mafunzo.errors import InvalidFile, NotSupported

STORED = "azureml://datastores/workspaceblobstore/paths/x"
COMMAND = {"type": "command", "command": "echo", "code": "azureml:c:1", "environment": "azureml:e:2"}


def test_what_is_put_is_answered() -> None:
    body = {"properties": {"componentSpec": COMMAND | {"tags": {"a": 1}}, "properties": {"k": "v"}, "description": "d"}}
    request = request_from_body("tell", "3", body)
    assert (request.component.name, request.component.version, request.description) == ("tell", "3", "d")
    assert request.source == Source(AssetReference("c", "1"), AssetReference("e", "2"))
    assert (request.user_properties, request.component.tags) == ({"k": "v"}, {"a": "1"})
    spec = request.echoes["azure"]["componentSpec"]
    assert spec == {**COMMAND, "tags": {"a": 1}, "name": "tell", "version": "3"}


def test_an_interface_that_cannot_be_used_is_refused_with_all_faults() -> None:
    spec = {"type": "command", "inputs": {"a": {"type": "picture"}}}
    with pytest.raises(InvalidFile) as refused:
        component_from_spec(spec, "component x:1")
    assert refused.value.message == "component x:1: not a component that can be used."
    assert [fault.partition(" ")[0] for fault in refused.value.faults] == ["name", "command", "input"]


def test_sections_may_be_spelled_in_either_way() -> None:
    sections = [
        {"resources": {"instance_count": 2}, "distribution": {"type": "mpi", "process_count_per_instance": 3}},
        {"resources": {"instanceCount": 2}, "distribution": {"type": "mpi", "processCountPerInstance": 3}},
    ]
    for section in sections:
        assert component_from_spec({**COMMAND, "name": "x", **section}, "x").resources.processes == 6


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param(None, "", id="nothing"),
        pytest.param("azureml:a:1", AssetReference("a", "1"), id="a short name"),
        pytest.param("./local", "./local", id="a path"),
        pytest.param("azureml://jobs/j/outputs/o", "azureml://jobs/j/outputs/o", id="an output"),
    ],
)
def test_a_text_names_an_asset_or_is_itself(written: Any, expected: Any) -> None:
    assert asset_name(written) == expected


def test_code_and_environment_have_two_spellings() -> None:
    assert (
        source_of({"codeId": "azureml:c:1"}) == source_of({"code": "azureml:c:1"}) == Source(AssetReference("c", "1"))
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"value": 3, "job_input_type": "literal"}, 3, id="a literal"),
        pytest.param("${{parent.inputs.a}}", "${{parent.inputs.a}}", id="a binding"),
        pytest.param({"path": "${{parent.inputs.a}}"}, "${{parent.inputs.a}}", id="a bound path"),
        pytest.param({"type": "uri_file"}, None, id="no value"),
        pytest.param(
            {"uri": STORED, "jobInputType": "uri_file"},
            PathInput(StoredPath("workspaceblobstore", "x"), "uri_file", STORED),
            id="a path",
        ),
        pytest.param(
            {"path": STORED},
            PathInput(StoredPath("workspaceblobstore", "x"), "uri_folder", STORED),
            id="a path of no type",
        ),
    ],
)
def test_an_input_is_a_value_a_binding_or_a_path(value: Any, expected: Any) -> None:
    assert input_from_body(value) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"jobOutputType": "uri_folder"}, None, id="nowhere"),
        pytest.param({"uri": "${{parent.outputs.x}}"}, None, id="bound"),
        pytest.param({"uri": "azureml://jobs/j/outputs/o"}, None, id="where it is already"),
        pytest.param(
            {"assetName": "kept", "assetVersion": 2, "jobOutputType": "mltable"},
            Destination("mltable", "kept", "2", ""),
            id="an asset",
        ),
        pytest.param({"path": STORED, "type": "uri_file"}, Destination("uri_file", "", "", "x"), id="a path"),
    ],
)
def test_an_output_goes_to_an_asset_or_a_path(body: dict[str, Any], expected: Destination | None) -> None:
    assert destination_from_body("o", body) == expected


def test_an_output_goes_to_no_other_place() -> None:
    with pytest.raises(NotSupported, match="Output o is to go to 'https://elsewhere'"):
        destination_from_body("o", {"uri": "https://elsewhere"})


def test_a_node_has_its_component_bindings_and_destinations() -> None:
    node = node_from_body(
        "n",
        {
            "componentId": "azureml:c:1",
            "inputs": {"a": {"value": "${{parent.inputs.a}}", "job_input_type": "literal"}},
            "outputs": {"o": {"value": "${{parent.outputs.o}}", "type": "literal"}, "p": {"name": "kept"}},
            "environmentVariables": {"A": 1},
            "limits": {"timeout": "PT2M"},
        },
    )
    assert (node.component, node.inputs) == (AssetReference("c", "1"), {"a": "${{parent.inputs.a}}"})
    assert (node.outputs, node.environment, node.timeout_s) == ({"o": "${{parent.outputs.o}}"}, {"A": "1"}, 120)
    assert node.destinations == {"p": Destination("uri_folder", "kept", "", "")}


def test_what_is_to_run_beside_a_command_is_refused() -> None:
    require_no_services("Job 'j'", {"services": {"Studio": {"jobServiceType": "Studio"}, "none": None}})
    with pytest.raises(NotSupported, match=r"Job 'j' asks for JupyterLab, SSH\. Services aren't run beside a job"):
        require_no_services(
            "Job 'j'", {"services": {"a": {"job_service_type": "SSH"}, "b": {"jobServiceType": "JupyterLab"}}}
        )


def test_a_component_that_ships_is_the_registry_s_and_declares_numbers_as_texts() -> None:
    inputs = {"n": Input("n", "integer", is_optional=True, default=3, minimum=1.0, enum=("1", "3"))}
    component = Component("c", "4", "command", inputs=inputs, command="run", description="d", tags={"a": "b"})
    body = component_version_body(shipped_asset(component))
    assert body["id"] == "azureml://registries/azureml/components/c/versions/4"
    assert (body["systemData"]["createdBy"], body["properties"]["tags"]) == ("catalogue", {"a": "b"})
    spec = body["properties"]["componentSpec"]
    assert spec["inputs"] == {
        "n": {"type": "Integer", "description": "", "optional": True, "default": "3", "enum": ["1", "3"], "min": "1"}
    }
    assert (spec["command"], spec["environment"].endswith("/environments/local/versions/1")) == ("run", True)


def test_the_client_of_a_component_that_ships_reads_the_interface_that_it_has() -> None:
    component = shipped("chat_completion_pipeline").component
    spec = component_version_body(shipped_asset(component))["properties"]["componentSpec"]
    assert set(spec["inputs"]) == set(component.inputs) and "command" not in spec
    assert spec["outputs"] == {name: {"type": output.type} for name, output in component.outputs.items()}
