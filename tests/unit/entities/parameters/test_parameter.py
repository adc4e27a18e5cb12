"""A parameter is declared once, and each component may call it and describe it in its own way."""

import pytest

from mafunzo.entities.parameters.parameter import TRUTH, Parameter, typed

NAME = Parameter(
    "model_name",
    "string",
    "What it is called.",
    steps=("package_model",),
    names={"package_model": "name"},
    effects={"package_model": "Its name."},
)


def test_a_component_has_its_own_name_and_text_for_it():
    declared = NAME.input_of("package_model")
    assert (declared.name, declared.description) == ("name", "Its name.")
    assert (NAME.input_of("evaluate").name, NAME.input_of("evaluate").description) == (
        "model_name",
        "What it is called.",
    )


def test_used_alone_a_component_may_do_without_it():
    task = Parameter("task_name", "string", "The task.", default="ChatCompletion")
    assert not task.as_input().is_optional and task.input_of("prepare_data").is_optional


def test_the_unit_is_told():
    assert Parameter("seed", "integer", "The seed.", unit="points").as_input().description == "The seed. Unit: points."


@pytest.mark.parametrize(
    ("enum", "value", "expected"),
    [
        pytest.param(TRUTH, "true", True, id="true"),
        pytest.param(TRUTH, "false", False, id="false"),
        pytest.param(("32", "16"), "16", "16", id="another enum"),
        pytest.param((), "true", "true", id="any text"),
        pytest.param((), None, None, id="no value"),
    ],
)
def test_only_truth_values_become_booleans(enum, value, expected):
    assert typed(Parameter("x", "string", "X.", enum=enum), value) is expected
