"""The typed arguments are the finetune step's parameters, each of which is read somewhere or said to change nothing."""

import ast
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import mafunzo
from mafunzo.compute.training.arguments import WITHOUT_EFFECT, TrainingArguments
from mafunzo.entities.parameters.table import PARAMETERS, parameters_of, resolve
from mafunzo.errors import InvalidParameter

PARAMETERS_OF_STEP = {parameter.name: parameter for parameter in parameters_of("finetune")}
FIELDS = {field.name: field.type for field in fields(TrainingArguments)}
COMPUTE = Path(mafunzo.__file__).parent / "compute"
READ_AS = {"lora_target_modules": "lora_targets"}
READERS = [*(COMPUTE / "training").rglob("*.py"), COMPUTE / "components" / "finetune.py"]


def test_the_arguments_are_the_parameters_of_the_finetune_step():
    assert list(FIELDS) == list(PARAMETERS_OF_STEP)


@pytest.mark.parametrize("name", list(FIELDS))
def test_an_argument_has_the_type_that_its_parameter_declares(name):
    parameter, kind = PARAMETERS_OF_STEP[name], FIELDS[name]
    values = tuple(value for value in parameter.enum if value not in parameter.refused)
    if values == ("true", "false"):
        assert kind is bool
    elif values:
        assert get_origin(kind) is Literal and get_args(kind) == values
    else:
        text = str | None if parameter.default is None else str
        assert kind == {"integer": int, "number": float, "string": text}[parameter.type]


@pytest.mark.parametrize("name", list(FIELDS))
def test_every_argument_is_read_or_said_to_change_nothing(name):
    assert (READ_AS.get(name, name) in attributes_read()) != (name in WITHOUT_EFFECT)


def attributes_read() -> set[str]:
    """The attributes that any code of training reads of something called arguments."""
    nodes = (node for path in READERS for node in ast.walk(ast.parse(path.read_text())))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == "arguments"
    }


def test_no_code_of_training_compares_with_the_words_true_and_false():
    texts = [path.read_text() for path in READERS if path.name not in ("arguments.py", "config.py")]
    assert texts and not any('"true"' in text or '"false"' in text for text in texts)


def test_truth_values_become_booleans_and_defaults_are_filled_in():
    arguments = TrainingArguments.from_values({"apply_lora": "true", "learning_rate": "3e-4"})
    assert arguments.apply_lora is True and arguments.gradient_checkpointing is False
    assert arguments.learning_rate == 3e-4 and arguments.adam_beta2 == PARAMETERS["adam_beta2"].default


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="the defaults"),
        pytest.param(
            {"apply_lora": "true", "lora_target_modules": "['q_proj', 'v_proj']", "precision": "16", "max_steps": 3},
            id="others",
        ),
    ],
)
def test_the_table_s_own_words_come_back(values):
    """Files that earlier versions wrote hold these words, and checkpoints are compared by them."""
    resolved, _ = resolve(values)
    words = TrainingArguments.from_values(values).to_values()
    assert words == resolved and list(words) == list(resolved)
    assert {name: type(value) for name, value in words.items()} == {n: type(v) for n, v in resolved.items()}


def test_names_of_layers_are_read_as_people_write_them():
    arguments = TrainingArguments.from_values({"apply_lora": "true", "lora_target_modules": "q_proj, v_proj"})
    assert arguments.lora_targets == ("q_proj", "v_proj")
    assert TrainingArguments.from_values({}).lora_targets == ()


def test_all_faults_come_at_once():
    with pytest.raises(InvalidParameter) as caught:
        TrainingArguments.from_values({"learning_rate": -1, "optim": "sgd", "metric_for_best_model": "f1"})
    assert caught.value.message == "Training can't start." and len(caught.value.faults) == 3
