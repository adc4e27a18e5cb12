"""The pipelines that ship: their outputs, and that every step gets all that it takes."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from mafunzo.compute.components.command import load_interface
from mafunzo.entities.parameters.component import COMPONENTS as DECLARED
from mafunzo.entities.parameters.parameter import STEPS
from mafunzo.entities.parameters.pipeline import PIPELINES

COMPONENTS = Path(__file__).resolve().parents[4] / "mafunzo" / "compute" / "components"


def test_the_pipeline_has_azure_s_outputs_and_the_evaluation():
    outputs = load_interface(COMPONENTS / "chat_completion_pipeline.yml").outputs
    assert {name: output.type for name, output in outputs.items()} == {
        "pytorch_model_folder": "uri_folder",
        "mlflow_model_folder": "mlflow_model",
        "evaluation_result": "uri_folder",
    }


def test_every_binding_of_the_pipeline_exists_with_a_fitting_type():
    pipeline = load_interface(COMPONENTS / "chat_completion_pipeline.yml")
    parts = {name: load_interface(COMPONENTS / f"{node.component}.yml") for name, node in pipeline.nodes.items()}
    for name, node in pipeline.nodes.items():
        for key, binding in node.inputs.items():
            assert key in parts[name].inputs, f"{name} has no input {key}"
            path = binding.removeprefix("${{parent.").removesuffix("}}").split(".")
            declared = parts[name].inputs[key]
            if path[0] == "inputs":
                source = pipeline.inputs[path[1]]
                assert source.type == declared.type, f"{name}.{key}"
                assert source.default == declared.default, f"{name}.{key}"
                assert source.enum == declared.enum, f"{name}.{key}"
                assert source.is_required <= declared.is_required or source.is_optional <= declared.is_optional
            else:
                assert declared.is_path and path[3] in parts[path[1]].outputs, f"{name}.{key}"
                assert declared.type in (parts[path[1]].outputs[path[3]].type, "uri_folder"), f"{name}.{key}"
        for key, target in node.outputs.items():
            assert key in parts[name].outputs
            assert target.removeprefix("${{parent.outputs.").removesuffix("}}") in pipeline.outputs
        required = {key for key, declared in parts[name].inputs.items() if declared.is_required}
        assert required <= set(node.inputs), f"{name} needs {required - set(node.inputs)}"


@pytest.mark.parametrize("step", STEPS)
def test_what_a_step_takes_reaches_it(step):
    """Every input of a component is bound, none is left at its default."""
    pipeline = load_interface(COMPONENTS / "chat_completion_pipeline.yml")
    component = load_interface(COMPONENTS / f"{step}.yml")
    assert set(component.inputs) == set(pipeline.nodes[step].inputs)


def test_the_pipeline_is_a_component_that_yaml_reads_back_as_declared():
    body = yaml.safe_load((COMPONENTS / "chat_completion_pipeline.yml").read_text())
    assert body["inputs"]["learning_rate"]["default"] == 2e-05
    assert body["inputs"]["adam_epsilon"]["default"] == 1e-8
    assert importlib.util.find_spec("mafunzo.entities.parameters.table")


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_of_a_pipeline_is_given_what_it_requires(name):
    for step in PIPELINES[name].nodes.values():
        required = {key for key, declared in DECLARED[step.component].inputs.items() if declared.is_required}
        assert required <= set(step.inputs)


def test_a_comparison_imports_two_models_from_inputs_of_their_own():
    nodes = PIPELINES["compare_models"].nodes
    first, second = nodes["import_model"].inputs, nodes["import_tuned"].inputs
    assert {key: value.replace("inputs.tuned_", "inputs.") for key, value in second.items()} == first
    assert not set(first.values()) & set(second.values())
