"""Tests of `mafunzo.compute.components.command`: a component's command line in a real process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
