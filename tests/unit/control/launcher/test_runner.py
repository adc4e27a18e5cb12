"""The runner's parts that need no process, and what the kernel ends; `test_local` runs it."""

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mafunzo import cgroup
from mafunzo.control.launcher import runner
from mafunzo.control.launcher.runner import claim, main, process_start
from tests.support.memory_group import memory_group


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


def test_ends_for_want_of_memory_are_counted_of_the_machine_and_of_the_own_group(tmp_path, monkeypatch) -> None:
    vmstat = tmp_path / "vmstat"
    monkeypatch.setattr(runner, "VMSTAT", vmstat)
    monkeypatch.setattr(cgroup, "oom_kills", lambda: 2)
    assert runner._oom_kills() == 2  # a container without the machine's numbers
    vmstat.write_text("pgfault 7\noom_kill 5\n")
    assert runner._oom_kills() == 7


def test_what_the_kernel_ends_for_memory_is_told_from_what_somebody_kills(tmp_path) -> None:
    """A real end: a process that takes more than its control group may."""
    with memory_group(150 * 2**20) as group:
        join = f"echo $$ > {group}/cgroup.procs; exec {sys.executable} -m mafunzo.control.launcher.runner"
        grab = f"{sys.executable} -c 'b = bytearray(10**9); b[::4096] = b[::4096]'"
        for folder, command in (("grabs", grab), ("killed", "kill -9 $$")):
            (tmp_path / folder).mkdir()
            argv = f"{join} {tmp_path / folder} 1 bash -c {shlex.quote(command)}"
            subprocess.run(["bash", "-c", argv], check=False)
    records = [json.loads((tmp_path / folder / "exit.json").read_text()) for folder in ("grabs", "killed")]
    assert [record["exit_code"] for record in records] == [137, 137]
    assert [record["is_out_of_memory"] for record in records] == [True, False]
    assert 50 < records[0]["peak_memory_mb"] < 200


def test_processes_have_their_place_among_those_of_several_machines() -> None:
    ranks = runner.Ranks.of(runner.Ranks(4, 8, 2, "10.0.0.1", 29500).text, processes=2)
    variables = runner._rank_environment(1, 2, ranks)
    assert (variables["RANK"], variables["WORLD_SIZE"]) == ("5", "8")
    assert (variables["LOCAL_RANK"], variables["LOCAL_WORLD_SIZE"], variables["NODE_RANK"]) == ("1", "2", "2")
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("10.0.0.1", "29500")


def test_a_single_process_of_each_of_two_machines_is_no_single_process() -> None:
    ranks = runner.Ranks.of(runner.Ranks(1, 2, 1, "10.0.0.1", 29500).text, processes=1)
    assert runner._rank_environment(0, 1, ranks)["RANK"] == "1"
    assert runner._rank_environment(0, 1, runner.Ranks.of(None, processes=1)) == {}
