"""Tests of `download-dataset.py`, which scripts written for Azure call: its arguments, what it prints, how it ends."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import mafunzo.entrypoints.azure.client
from mafunzo.control.workspace.datasets import DataSets
from mafunzo.errors import Unreachable

SCRIPT = str(Path(mafunzo.entrypoints.azure.client.__file__).parent / "download-dataset.py")


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str) -> None:
    monkeypatch.setenv("MAFUNZO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", [SCRIPT, *words])
    runpy.run_path(SCRIPT, run_name="__main__")


@pytest.mark.parametrize(
    ("words", "name", "percent"),
    [
        pytest.param([], "HuggingFaceH4/ultrachat_200k", 100.0, id="the data set of Azure's example, whole"),
        pytest.param(["--dataset", "chitchat", "--dataset_split_pc", "5"], "chitchat", 5.0, id="as the options say"),
    ],
)
def test_the_files_of_a_data_set_are_written_over_and_named(
    words: list[str],
    name: str,
    percent: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def get(_: DataSets, name: str, **options: Any) -> dict[str, Path]:
        calls.append((name, options))
        return {"train": Path("/to/train.jsonl"), "test": Path("/to/test.jsonl")}

    monkeypatch.setattr(DataSets, "get", get)
    run(monkeypatch, tmp_path, "--download_dir", "/to", *words)
    assert calls == [(name, {"to": "/to", "percent": percent, "overwrite": True})]
    assert capsys.readouterr().out == "/to/train.jsonl\n/to/test.jsonl\n"


def test_an_error_is_its_words_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def get(*_: Any, **__: Any) -> None:
        raise Unreachable("The hub can't be reached.")

    monkeypatch.setattr(DataSets, "get", get)
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, tmp_path, "--download_dir", "/to")
    assert (end.value.code, capsys.readouterr().err) == (1, "error: The hub can't be reached.\n")


def test_without_a_folder_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, tmp_path)
    assert end.value.code == 2
    assert "the following arguments are required: --download_dir" in capsys.readouterr().err
