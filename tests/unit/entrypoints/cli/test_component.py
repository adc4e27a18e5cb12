"""Tests of `mafunzo component`: those that ship, and those that a user registered."""

import json
from pathlib import Path

import pytest

from tests.support.command_line import Shell

pytest.importorskip("mafunzo.entrypoints.azure", reason="files of az ml make the components here")

FILE = """
type: command
name: count
version: {version}
description: Counts rows. And more.
inputs:
  rows: {{type: uri_file, description: what is counted}}
  limit: {{type: integer, default: 5}}
outputs:
  total: {{type: uri_file, description: how many}}
environment: azureml:acft-hf-nlp-gpu:1
command: wc -l ${{{{inputs.rows}}}} ${{{{inputs.limit}}}} > ${{{{outputs.total}}}}
"""


@pytest.fixture
def component(shell: Shell, tmp_path: Path) -> str:
    for version in ("1", "2"):
        (file := tmp_path / "component.yml").write_text(FILE.format(version=version))
        shell("create", "-f", file)
    return "count"


def listed(shell: Shell, *options: str) -> list[tuple[str, str]]:
    return [(one["name"], one["version"]) for one in json.loads(shell("component", "list", *options, "--json"))]


def test_registered_components_stand_before_those_that_ship(shell: Shell, component: str) -> None:
    assert listed(shell)[:2] == [("count", "2"), ("count", "1")]
    header, first, *rows = shell("component", "list").splitlines()
    assert header.split() == ["name", "version", "kind", "where", "description"]
    assert first.split() == ["count", "2", "command", "registered", "Counts", "rows"]
    assert ["chat_completion_pipeline", "1", "pipeline", "ships"] in [row.split()[:4] for row in rows]


def test_a_component_is_shown_with_what_it_takes_makes_and_runs(shell: Shell, component: str) -> None:
    told = shell("component", "show", component)
    lines = [line.split() for line in told.splitlines()]
    assert ["version", "2"] in lines
    assert "command      wc -l ${{inputs.rows}} ${{inputs.limit}} > ${{outputs.total}}" in told
    assert ["rows", "uri_file", "what", "is", "counted"] in lines
    assert ["limit", "integer", "5"] in lines
    assert ["total", "uri_file", "how", "many"] in lines
    assert json.loads(shell("component", "show", "count:1", "--json"))["version"] == "1"


def test_of_one_that_ships_the_command_is_not_shown(shell: Shell) -> None:
    told = shell("component", "show", "finetune")
    assert not any(line.startswith(("command ", "code ", "environment ")) for line in told.splitlines())
    assert "lora_r " in told


def test_a_version_or_all_of_a_name_are_hidden_and_shown_again(shell: Shell, component: str) -> None:
    assert shell("component", "archive", "count:1") == "count:1 is archived\n"
    assert ("count", "1") not in listed(shell)
    assert ("count", "1") in listed(shell, "--archived")
    assert shell("component", "archive", "count") == "count:2 is archived\ncount:1 is archived\n"
    assert shell("component", "archive", "count", "--undo") == "count:2 is shown\ncount:1 is shown\n"
    assert [one["is_archived"] for one in json.loads(shell("component", "archive", "count:2", "--json"))] == [True]


def test_an_archived_component_is_still_found_by_its_name(shell: Shell, component: str) -> None:
    shell("component", "archive", "count:1")
    assert json.loads(shell("component", "show", "count:1", "--json"))["name"] == "count"


@pytest.mark.parametrize("words", [["show", "coun"], ["show", "count:7"], ["archive", "coun"], ["archive", "count:7"]])
def test_an_unknown_component_is_refused(words: list[str], shell: Shell, component: str) -> None:
    told = shell("component", *words, code=2)
    assert told.startswith("error: No component '")
    assert words[1] in told
