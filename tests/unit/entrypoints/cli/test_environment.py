"""Tests of `mafunzo environment`: which there are, what is built of them, and away with them."""

import json
from pathlib import Path

import pytest

from mafunzo import Workspace
from tests.support.command_line import Shell

pytest.importorskip("mafunzo.entrypoints.azure", reason="files of az ml make the environments here")

FILE = """
name: small
version: {version}
description: has one package
image: some/image
conda_file: {{dependencies: [python=3.11, {{pip: [humanize]}}]}}
"""


@pytest.fixture(autouse=True)
def no_other_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave nothing on the path, so that no process asks a Python of the machine for its version."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def environment(shell: Shell, tmp_path: Path) -> str:
    (file := tmp_path / "environment.yml").write_text(FILE.format(version=1))
    shell("create", "-f", file)
    return "small:1"


@pytest.fixture
def built(environment: str, workspace: Workspace) -> Path:
    """What the launcher leaves of an environment that it has built."""
    folder = workspace.environments.get(environment).folder
    assert folder is not None
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("x" * 1998)
    (folder / ".ready").write_text("{}")
    return folder


def listed(shell: Shell, *options: str) -> list[str]:
    return [f"{one['name']}:{one['version']}" for one in json.loads(shell("environment", "list", *options, "--json"))]


def test_registered_environments_stand_before_the_curated_ones(shell: Shell, environment: str) -> None:
    header, first, *rows = shell("environment", "list").splitlines()
    assert header.split() == ["name", "version", "where", "built", "size", "description"]
    assert first.split() == ["small", "1", "registered", "no", "has", "one", "package"]
    curated = {row.split()[0]: row for row in rows}
    assert "Mafunzo's own" in curated["acft-hf-nlp-gpu"]
    assert "curated" in curated["AzureML-minimal"]
    assert listed(shell)[0] == environment


def test_what_is_built_is_told_with_its_size(shell: Shell, built: Path) -> None:
    assert shell("environment", "list").splitlines()[1].split()[:6] == ["small", "1", "registered", "yes", "2.0", "kB"]
    told = shell("environment", "show", "small")
    lines = [line.split() for line in told.splitlines()]
    assert ["built", "yes"] in lines
    assert ["packages", "humanize"] in lines
    assert ["folder", str(built)] in lines
    assert lines[-1] == ["size", "2.0", "kB"]
    body = json.loads(shell("environment", "show", "small", "--json"))
    assert (body["is_built"], body["size_bytes"], body["folder"]) == (True, 2000, str(built))


def test_what_is_not_built_has_no_size(shell: Shell, environment: str) -> None:
    told = shell("environment", "show", environment)
    assert ["built", "no"] in [line.split() for line in told.splitlines()]
    assert "size" not in told


def test_a_version_is_hidden_and_shown_again(shell: Shell, environment: str) -> None:
    assert shell("environment", "archive", environment) == "small:1 is archived\n"
    assert environment not in listed(shell)
    assert environment in listed(shell, "--all")
    assert shell("environment", "archive", "small", "--undo") == "small:1 is shown\n"
    assert [one["is_archived"] for one in json.loads(shell("environment", "archive", "small", "--json"))] == [True]


def test_a_version_is_deleted_with_what_was_built_of_it(shell: Shell, built: Path) -> None:
    assert shell("environment", "delete", "small") == "Deleted small:1. Freed 2.0 kB.\n"
    assert not built.exists()
    assert "small:1" not in listed(shell, "--all")


def test_what_is_freed_is_json_if_so_asked(shell: Shell, environment: str) -> None:
    assert json.loads(shell("environment", "delete", "small", "--json")) == {"deleted": "small:1", "freed_bytes": 0}


def test_of_a_curated_one_only_what_was_built_goes(shell: Shell) -> None:
    told = shell("environment", "delete", "AzureML-minimal")
    assert told == "Deleted what was built of AzureML-minimal:1. Freed 0 B.\n"
    assert any(name.startswith("AzureML-minimal:") for name in listed(shell))


def test_one_that_a_component_names_is_deleted_by_force_only(shell: Shell, environment: str, tmp_path: Path) -> None:
    (file := tmp_path / "component.yml").write_text(
        "type: command\nname: tell\nversion: 2\ncommand: echo\nenvironment: azureml:small:1\n"
    )
    shell("create", "-f", file)
    told = shell("environment", "delete", "small", code=3)
    assert told.startswith("error: Environment small:1 is named by tell:2, which couldn't run without it.")
    assert shell("environment", "delete", "small", "--force") == "Deleted small:1. Freed 0 B.\n"


@pytest.mark.parametrize("verb", ["show", "delete"])
def test_an_unknown_environment_is_refused_and_all_names_are_told(verb: str, shell: Shell, environment: str) -> None:
    told = shell("environment", verb, "smal", code=2)
    assert told.startswith("error: No environment is called 'smal'. There are: ")
    assert "small" in told
    assert "acft-hf-nlp-gpu" in told


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("smal", "No environment 'smal' is registered.", id="unknown name"),
        pytest.param("small:7", "No environment 'small:7'", id="unknown version"),
    ],
)
def test_what_is_not_registered_is_not_archived(name: str, text: str, shell: Shell, environment: str) -> None:
    assert text in shell("environment", "archive", name, code=2)
