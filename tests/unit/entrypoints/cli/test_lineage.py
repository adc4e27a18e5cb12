"""Tests of `mafunzo lineage`: the way back, and the exit code when a stored byte has changed."""

import json
from pathlib import Path

import pytest

from mafunzo import Workspace
from tests.support.command_line import Shell


@pytest.fixture
def model(workspace: Workspace, tmp_path: Path) -> Path:
    """The one stored file of the model `tuned:1`."""
    (folder := tmp_path / "tuned").mkdir()
    (folder / "config.json").write_text("{}")
    asset = workspace.models.register(folder, name="tuned")
    return workspace.artifacts.open_file(str(asset.artifact), "config.json")


def test_a_model_is_traced_and_its_hashes_verified(shell: Shell, model: Path) -> None:
    first = shell("lineage", "tuned").splitlines()[0]
    assert first.startswith("model tuned:1 sha256:")
    assert first.endswith("... [verified]")
    [link] = json.loads(shell("lineage", "tuned:1", "--json"))["links"]
    assert (link["kind"], link["name"], link["faults"]) == ("model", "tuned:1", [])


def test_changed_bytes_are_told_and_end_with_1(shell: Shell, model: Path) -> None:
    model.chmod(0o600)
    model.write_text("[]")
    ended = shell.run("lineage", "tuned")
    assert ended.exit_code == 1
    assert "[CORRUPT]" in ended.stdout.splitlines()[0]
    assert ended.stderr.startswith("error: The lineage is broken: stored bytes have changed.\n  - model tuned:1: ")
    assert "config.json" in ended.stderr
    assert shell.run("lineage", "tuned", "--json").exit_code == 1


def test_a_model_on_offer_has_no_way_back(shell: Shell) -> None:
    assert shell("lineage", "tiny-llama") == "catalogue model tiny-llama:1\n    licence: apache-2.0\n"


def test_what_is_neither_job_nor_model_is_refused(shell: Shell) -> None:
    assert "No base model is called 'tiny-lama'. Did you mean tiny-llama" in shell("lineage", "tiny-lama", code=2)


def test_rows_without_a_text_to_compare_are_refused(shell: Shell, model: Path) -> None:
    assert "Give one: --text TEXT." in shell("lineage", "tuned", "--rows", "3", code=2)
    assert json.loads(shell("lineage", "tuned", "--text", "jambo", "--json"))["closest"]["notes"] == [
        "no training rows are known: no fine-tuning job leads to it"
    ]


def test_an_answer_of_nobody_s_is_refused(shell: Shell) -> None:
    assert "isn't the id of an answer of this home" in shell("lineage", "answer:chatcmpl-1", code=2)
