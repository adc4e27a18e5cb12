"""The runner's parts that need no process; `test_local` runs it."""

import json
import os
from pathlib import Path

import psutil
import pytest

from mafunzo.control.launcher.runner import claim, main, process_start


def test_a_folder_is_claimed_once_and_whole(tmp_path: Path) -> None:
    assert claim(tmp_path, {"pid": 1})
    assert not claim(tmp_path, {"pid": 2})
    assert json.loads((tmp_path / "process.json").read_text()) == {"pid": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["process.json"]


def test_a_runner_that_finds_its_folder_taken_ends_without_a_word(tmp_path: Path) -> None:
    claim(tmp_path, {"pid": None})
    assert main([str(tmp_path), "1", "touch", str(tmp_path / "ran")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["process.json"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells when a process began")
def test_a_process_began_when_others_see_it_begin() -> None:
    assert process_start() == pytest.approx(psutil.Process(os.getpid()).create_time(), abs=2)
