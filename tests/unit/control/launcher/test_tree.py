"""Whose a process is, also while it shows no environment."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mafunzo.control.launcher.tree import Tree, mark_of
from mafunzo.tracking.step_folder import STEP_FOLDER


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, STEP_FOLDER: str(tmp_path)}
    child = subprocess.Popen(["bash", "-c", "sleep 600 & wait"], env=environment, start_new_session=True)
    while not psutil.Process(child.pid).children():
        time.sleep(0.01)
    yield child
    os.killpg(child.pid, 9)
    child.wait()


def test_the_mark_and_its_descendants_are_found(marked: subprocess.Popen[bytes], tmp_path: Path) -> None:
    found = {process.pid for process in Tree().of(tmp_path, None, None)}
    assert marked.pid in found and found >= {one.pid for one in psutil.Process(marked.pid).children()}


def test_another_folder_has_none_of_it(marked: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert Tree().of(tmp_path / "other", None, None) == []
    assert Tree().of(tmp_path.parent, None, None) == []


def test_a_process_of_the_session_that_shows_no_environment_is_found(tmp_path: Path) -> None:
    bare = subprocess.Popen(["/usr/bin/env", "-i", "/bin/sleep", "600"], start_new_session=True)
    try:
        while psutil.Process(bare.pid).name() != "sleep" or mark_of(psutil.Process(bare.pid)) is not None:
            time.sleep(0.01)
        assert [process.pid for process in Tree().of(tmp_path, None, bare.pid)] == [bare.pid]
        assert Tree().of(tmp_path, None, None) == [], "outside of the session it's a stranger"
    finally:
        bare.kill()
        bare.wait()


def test_the_one_that_asks_is_left_out(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from mafunzo.control.launcher.tree import Tree;"
        f"print(len(Tree().of(Path({str(tmp_path)!r}), None, None)))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, STEP_FOLDER: str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "0\n"
