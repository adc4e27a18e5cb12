"""What runs on a leash ends with whoever holds it."""

import subprocess
import sys
from pathlib import Path

import pytest

from mafunzo.control.launcher.leash import Leashed, start_on_leash
from mafunzo.control.launcher.local import ExitRecord, LocalLauncher, Running
from tests.support.waiting import until


def record_of(folder: Path) -> ExitRecord:
    launcher = LocalLauncher()
    until(lambda: not isinstance(launcher.status(folder), Running))
    record = launcher.status(folder)
    assert isinstance(record, ExitRecord)
    return record


def test_it_runs_on_and_ends_when_the_leash_is_let_go(tmp_path: Path) -> None:
    stream = start_on_leash(Leashed(str(tmp_path / "a"), ["bash", "-c", "echo $WORD; sleep 600"], {"WORD": "hello"}))
    until(lambda: "hello" in (tmp_path / "a" / "log.txt").read_text())
    assert isinstance(LocalLauncher().status(tmp_path / "a"), Running)
    stream.close()
    assert record_of(tmp_path / "a").signal == 15


def test_it_ends_with_a_holder_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os\nfrom mafunzo.control.launcher.leash import *\n"
        f"stream = start_on_leash(Leashed({str(tmp_path / 'a')!r}, ['sleep', '600'], {{}}))\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert record_of(tmp_path / "a").is_killed


def test_what_it_wrote_is_deleted_with_it_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "job" / "a"
    start_on_leash(Leashed(str(folder), ["sleep", "600"], {}, discards=str(tmp_path / "job"))).close()
    until(lambda: not (tmp_path / "job").exists())


def test_it_ends_by_itself_with_its_own_exit_code(tmp_path: Path) -> None:
    with start_on_leash(Leashed(str(tmp_path / "a"), ["bash", "-c", "exit 7"], {})):
        assert record_of(tmp_path / "a").exit_code == 7


@pytest.mark.parametrize("processes", [2])
def test_several_run_side_by_side(tmp_path: Path, processes: int) -> None:
    with start_on_leash(Leashed(str(tmp_path / "a"), ["bash", "-c", "echo $RANK"], {}, processes)):
        record_of(tmp_path / "a")
    logs = [(tmp_path / "a" / name).read_text() for name in ("log.txt", "log.1.txt")]
    assert logs == ["0\n", "1\n"]
