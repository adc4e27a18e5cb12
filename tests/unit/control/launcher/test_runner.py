"""The runner's parts that need no process; `test_local` runs it."""

import errno
import json
import os
from pathlib import Path

import psutil
import pytest

from mafunzo.control.launcher import runner
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


def test_the_end_of_a_step_that_has_filled_the_disk_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for it since the step began."""
    room = runner._make_room(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "write_json", full)
    blocks = room.stat().st_size if room is not None else 0
    runner._record_end(tmp_path / "exit.json", {"exit_code": 7}, room)
    assert json.loads((tmp_path / "exit.json").read_text()) == {"exit_code": 7}
    assert (tmp_path / "exit.json").stat().st_size == blocks == runner.RECORD_BYTES, "not a byte more than there was"
    assert [path.name for path in tmp_path.iterdir()] == ["exit.json"]


@pytest.mark.parametrize("has_room", [False, True])
def test_where_no_room_is_left_the_end_is_written_as_any_record(tmp_path: Path, has_room: bool) -> None:
    """None could be made, or the step has deleted it."""
    room = runner._make_room(tmp_path)
    assert room is not None
    room.unlink()
    runner._record_end(tmp_path / "exit.json", {"exit_code": 0}, room if has_room else None)
    assert json.loads((tmp_path / "exit.json").read_text()) == {"exit_code": 0}
