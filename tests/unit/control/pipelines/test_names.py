"""The pipelines know no step of ours by name: what a step is, its component's interface says."""

import ast
import re
from pathlib import Path

import pytest

from mafunzo.control import pipelines
from mafunzo.control.workspace.shipped_component import shipped_names

SOURCES = sorted(Path(pipelines.__file__).parent.glob("*.py"))


def words_of_literals(source: str) -> set[str]:
    """Return every word that stands in a string of a program, docstrings apart."""
    tree = ast.parse(source)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told]
    return {word for node in strings if isinstance(node.value, str) for word in re.findall(r"\w+", node.value)}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_source_holds_the_name_of_a_shipped_component(source: Path) -> None:
    assert "finetune" in shipped_names()
    assert not words_of_literals(source.read_text(encoding="utf-8")) & set(shipped_names())


def test_a_name_is_found_in_a_literal_an_f_string_and_a_module_s_path() -> None:
    program = (
        '"""Docs of finetune."""\nif name == "evaluate":\n    run(f"{python} -m mafunzo.compute.components.finetune")\n'
    )
    assert words_of_literals(program) & set(shipped_names()) == {"evaluate", "finetune"}
