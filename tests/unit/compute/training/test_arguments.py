"""The finetune step's arguments: each is read somewhere or said to change nothing, and all faults between them are told."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

import mafunzo
from mafunzo.compute.components import finetune
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.entities.component import parse_value
from mafunzo.entities.parameters.table import PARAMETERS, parameters_of
from mafunzo.entities.parameters.target_modules import OF_TARGETS, Modules, TargetModules
from mafunzo.errors import InvalidParameter
from tests.support.component_line import values_of

FIELDS = [field.name for field in fields(TrainingArguments)]
NO_VALIDATION = {"evaluation_strategy": "disable"}
WITHOUT_EFFECT = {
    "auto_find_batch_size": "passes are made smaller when memory runs out whatever it says, and it is refused where they can't be",
    "eval_accumulation_steps": "evaluation keeps sums and no predictions, so that nothing has to move off the GPU",
    "metric_for_best_model": "the validation loss is the one metric that isn't refused",
}
"""Arguments that no code reads, and why whatever they may be changes nothing."""
COMPUTE = Path(mafunzo.__file__).parent / "compute"
READ_AS = dict.fromkeys(OF_TARGETS, "lora_targets")
READERS = [*(COMPUTE / "training").rglob("*.py"), COMPUTE / "components" / "finetune.py"]


@pytest.mark.parametrize("name", FIELDS)
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


def test_defaults_are_filled_in_as_their_types():
    arguments = TrainingArguments.from_values({"apply_lora": True, "learning_rate": 3e-4})
    assert arguments.apply_lora is True and arguments.gradient_checkpointing is False
    assert arguments.learning_rate == 3e-4 and arguments.adam_beta2 == PARAMETERS["adam_beta2"].default


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="the defaults"),
        pytest.param(
            {"apply_lora": "true", "lora_target_modules": "['q_proj', 'v_proj']", "precision": "16", "max_steps": "3"},
            id="others",
        ),
    ],
)
def test_the_table_s_own_words_come_back(options, tmp_path):
    """Files that earlier versions wrote hold these words, and checkpoints are compared by them."""
    declared = {parameter.name: parameter.as_input() for parameter in parameters_of("finetune")}
    expected = {name: parameter.default for name, parameter in declared.items() if not parameter.is_path}
    expected |= {name: parse_value(declared[name], word)[0] for name, word in options.items()}
    words = TrainingArguments.from_values(values_of(finetune, tmp_path, **options)).to_values()
    assert words == expected and list(words) == list(expected)
    assert {name: type(value) for name, value in words.items()} == {n: type(v) for n, v in expected.items()}


def test_names_of_layers_are_read_as_people_write_them():
    arguments = TrainingArguments.from_values({"apply_lora": True, "lora_target_modules": "q_proj, v_proj"})
    assert arguments.lora_targets == TargetModules(Modules(("q_proj", "v_proj")))
    assert TrainingArguments.from_values({}).lora_targets.is_default


def test_all_faults_between_arguments_come_at_once():
    with pytest.raises(InvalidParameter) as caught:
        TrainingArguments.from_values(
            {"max_steps": 0, "save_total_limit": 0, "apply_early_stopping": True} | NO_VALIDATION
        )
    assert caught.value.message == "Training can't start." and len(caught.value.faults) == 3
