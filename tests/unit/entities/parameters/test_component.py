"""The interfaces that ship are what the table and the graph declare."""

import re
from pathlib import Path

import pytest

from mafunzo.compute.components.command import load_interface
from mafunzo.entities.parameters.component import COMPONENTS
from mafunzo.entities.parameters.parameter import STEPS
from mafunzo.entities.parameters.pipeline import PIPELINES
from mafunzo.entities.parameters.table import PARAMETERS, parameters_of

FOLDER = Path(__file__).resolve().parents[4] / "mafunzo" / "compute" / "components"
DECLARED = {**COMPONENTS, **PIPELINES}


@pytest.mark.parametrize("name", DECLARED)
def test_an_interface_reads_back_as_it_is_declared(name: str) -> None:
    assert load_interface(FOLDER / f"{name}.yml") == DECLARED[name]


def test_every_interface_is_declared_and_every_component_has_its_module() -> None:
    assert {path.stem for path in FOLDER.glob("*.yml")} == set(DECLARED)
    assert all((FOLDER / f"{name}.py").is_file() for name in COMPONENTS)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_command_names_every_input_and_leaves_out_the_optional_ones_that_are_not_given(name: str) -> None:
    component = COMPONENTS[name]
    blocks = " ".join(re.findall(r"\$\[\[.*?\]\]", component.command))
    for one in component.inputs.values():
        option = f"--{one.name} '${{{{inputs.{one.name}}}}}'"
        assert component.command.count(option) == 1
        assert (option in blocks) == one.is_optional


@pytest.mark.parametrize("step", STEPS)
def test_a_component_takes_its_parameters_as_the_table_declares_them(step: str) -> None:
    for parameter in parameters_of(step):
        declared, in_pipeline = COMPONENTS[step].inputs[parameter.name_in(step)], parameter.as_input()
        for fact in ("type", "default", "enum", "minimum", "maximum", "exclusive_minimum", "refused", "aliases"):
            assert getattr(declared, fact) == getattr(in_pipeline, fact)


def test_the_pipeline_names_a_compute_of_its_own_inputs_for_every_step() -> None:
    for node in PIPELINES["chat_completion_pipeline"].nodes.values():
        name = node.bound["compute"].removeprefix("${{parent.inputs.").removesuffix("}}")
        assert name.startswith("compute_") and name in PARAMETERS
