"""Tests of `mafunzo.compute.components.command`: a component's command line in a real process."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import mafunzo
from mafunzo.compute.components import (
    batch_score,
    estimate,
    evaluate,
    finetune,
    import_model,
    package_model,
    prepare_data,
    preview_data,
)
from mafunzo.compute.evaluation.request import EvaluationArguments
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.entities.parameters.component import COMPONENTS
from mafunzo.entities.parameters.table import parameters_of
from mafunzo.errors import InvalidParameter
from tests.support.component_line import values_of

ARGUMENTS = {
    import_model: import_model.ImportModelArguments,
    prepare_data: prepare_data.PrepareDataArguments,
    finetune: TrainingArguments,
    evaluate: EvaluationArguments,
    package_model: package_model.PackageModelArguments,
    preview_data: preview_data.PreviewDataArguments,
    batch_score: batch_score.BatchScoreArguments,
    estimate: TrainingArguments,
}

INTERFACE = """
name: greet
version: '1'
type: command
description: Greets.
inputs:
  names: {type: uri_file, description: A file of names.}
  times: {type: integer, default: 1, min: 1, max: 3, description: How often.}
  tone: {type: string, optional: true, enum: [warm, cool], description: How.}
outputs:
  greetings: {type: uri_folder, description: Where they go.}
command: python greet.py
"""
SOURCE = """
from mafunzo.compute.components.command import Arguments, run
from mafunzo.errors import InvalidData

def greet(arguments: Arguments) -> None:
    names = arguments.path("names").read_text().split()
    if "nobody" in names:
        raise InvalidData("One name can't be used.", ["names.txt, row 1: nobody"])
    if "bug" in names:
        raise KeyError("bug")
    if "full" in names:
        raise OSError(28, "No space left on device", "out")
    if "greedy" in names:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
    arguments.metrics.log(1, {"names": len(names)})
    arguments.outputs["greetings"].mkdir()
    (arguments.outputs["greetings"] / "all.txt").write_text(" ".join(names) * arguments.values["times"])

run(__file__, greet)
"""


class Component:
    """The component in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "greet.yml").write_text(INTERFACE)
        (folder / "greet.py").write_text(SOURCE)
        (folder / "names.txt").write_text("Amina Juma")

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"MAFUNZO_STEP_FOLDER": str(self.folder)}
        argv = [sys.executable, "greet.py", *words]
        return subprocess.run(argv, capture_output=True, text=True, cwd=self.folder, env=environment)

    @property
    def error(self) -> dict:
        return json.loads((self.folder / "error.json").read_text())


@pytest.fixture
def component(tmp_path: Path) -> Component:
    return Component(tmp_path)


def test_good_arguments_reach_the_work_and_metrics_are_kept(component):
    process = component("--names", "names.txt", "--times", "2", "--greetings", "out")
    assert process.returncode == 0, process.stderr
    assert (component.folder / "out" / "all.txt").read_text() == "Amina JumaAmina Juma"
    assert json.loads((component.folder / "metrics.jsonl").read_text())["names"] == 2


def test_all_faults_of_the_command_line_come_at_once(component):
    process = component("--names", "none.txt", "--times", "9", "--tone", "wram", "--greetings", "out")
    assert process.returncode == 2
    for word in ("none.txt", "times is '9', expected a whole number from 1 to 3", "Did you mean warm?"):
        assert word in process.stderr
    assert component.error["code"] == "invalid_parameter"
    assert len(component.error["faults"]) == 3


@pytest.mark.parametrize(
    ("names", "exit_code", "code"),
    [
        pytest.param("nobody", 2, "invalid_data", id="an error of ours"),
        pytest.param("full", 1, "storage_full", id="a full disk"),
        pytest.param("greedy", 1, "out_of_memory", id="no memory left"),
        pytest.param("bug", 1, "failed", id="a bug"),
    ],
)
def test_what_goes_wrong_is_recorded_for_the_job(names, exit_code, code, component):
    (component.folder / "names.txt").write_text(names)
    process = component("--names", "names.txt", "--greetings", "out")
    assert process.returncode == exit_code
    assert component.error["code"] == code
    assert ("Traceback" in process.stderr) == (code == "failed")


def test_help_comes_from_the_interface(component):
    process = component("--help")
    assert "How often. (default: 1)" in process.stdout


def component_name(module) -> str:
    return module.__name__.rpartition(".")[2]


def test_every_component_has_typed_arguments():
    assert {component_name(module) for module in ARGUMENTS} == set(COMPONENTS)


@pytest.mark.parametrize("module", ARGUMENTS, ids=component_name)
def test_the_arguments_of_a_component_have_the_names_and_types_of_its_parameters(module):
    declared = COMPONENTS[component_name(module)].inputs.values()
    types = {parameter.name: type_of(parameter) for parameter in declared if not parameter.is_path}
    assert {field.name: text_if_generated(field.type) for field in fields(ARGUMENTS[module])} == types


def type_of(parameter) -> object:
    values = tuple(value for value in parameter.enum if value not in parameter.refused)
    if values == ("true", "false"):
        return bool
    if values:
        return text_if_generated(Literal[values])
    kind = {"integer": int, "number": float, "string": str}[parameter.type]
    return kind if parameter.default is not None else kind | None


def text_if_generated(kind: object) -> object:
    """The metrics' names are made from the code that measures them, so that no annotation lists them."""
    return str if get_origin(kind) is Literal and len(get_args(kind)) > 9 else kind


@pytest.mark.parametrize("module", ARGUMENTS, ids=component_name)
def test_a_command_line_gives_values_of_these_types(module, tmp_path):
    declared = COMPONENTS[component_name(module)].inputs
    truths = ["trust_remote_code"] if "trust_remote_code" in declared else []
    values = values_of(module, tmp_path, **dict.fromkeys(truths, "true"))
    assert all(values[name] is True for name in truths)
    arguments = ARGUMENTS[module](**values)
    for field in fields(arguments):
        value = getattr(arguments, field.name)
        kinds = tuple(map(type, get_args(field.type))) if get_origin(field.type) is Literal else field.type
        assert isinstance(value, kinds), field.name


def test_no_code_below_the_command_line_compares_with_the_words_true_and_false():
    root = Path(mafunzo.__file__).parent
    paths = [*(root / "compute").rglob("*.py"), root / "entities" / "parameters" / "constraint.py"]
    assert not [path for path in paths if '== "true"' in path.read_text() or '!= "true"' in path.read_text()]


def test_what_is_not_given_has_its_default(tmp_path):
    values = values_of(finetune, tmp_path, lora_r="16")
    assert values["lora_r"] == 16 and values["learning_rate"] == 2e-05
    assert list(values) == [parameter.name for parameter in parameters_of("finetune") if parameter.type != "uri_file"]


def test_all_faults_of_a_step_come_at_once(tmp_path):
    options = {"learning_rate": 3, "optim": "adam", "precision": "8", "num_train_epochs": 0}
    with pytest.raises(InvalidParameter) as caught:
        values_of(finetune, tmp_path, **options)
    assert len(caught.value.faults) == 4
