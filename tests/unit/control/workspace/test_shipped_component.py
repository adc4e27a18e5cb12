"""Tests of `mafunzo.control.workspace.shipped_component`: what ships, and the hash of what it runs."""

from pathlib import Path

import pytest

from mafunzo.control.workspace.shipped_component import _imported, shipped, shipped_interface, shipped_names
from mafunzo.errors import NotFound

COMPONENTS = Path(__file__).parents[4] / "mafunzo" / "compute" / "components"


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_component_can_be_read_and_is_pinned(name):
    found = shipped(name)
    assert found.component.name == name
    assert found.component.description
    assert found.code.startswith("sha256:")


@pytest.mark.parametrize("name", [n for n in shipped_names() if shipped_interface(n).kind == "pipeline"])
def test_every_node_of_a_shipped_pipeline_is_shipped(name):
    for node in shipped(name).component.nodes.values():
        assert shipped(node.component).component.kind == "command"


def test_the_code_of_a_step_is_everything_of_ours_that_it_imports():
    names = {str(file.relative_to(COMPONENTS.parents[1])) for file in _imported(COMPONENTS / "finetune.py")}
    assert {
        "compute/components/finetune.py",
        "compute/components/command.py",
        "compute/training/trainer.py",
        "compute/model/loading.py",
        "errors.py",
    } <= names
    assert not any(name.startswith(("control", "entrypoints")) for name in names)


def test_an_unknown_component_is_named_with_those_there_are():
    with pytest.raises(NotFound, match=r"There are: .*finetune"):
        shipped("finetuna")
