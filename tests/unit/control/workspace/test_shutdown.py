"""Tests of `mafunzo.control.workspace.shutdown`: what `mafunzo down` tells, and a home on which nothing runs."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.launcher.local import LocalLauncher, Running
from mafunzo.control.launcher.server_process import address_file
from mafunzo.control.workspace import shutdown
from mafunzo.control.workspace.shutdown import DownReport, EndedProcess, shut_down
from mafunzo.entities.job import Job, JobStatus, Step, StepSpec, StepStatus
from mafunzo.entities.server_address import ServerAddress
from mafunzo.errors import StorageFull

SERVER = EndedProcess(7, 1.0, "server", 100.04, (8443, 8080))
STEP = EndedProcess(8, 2.0, "step j1/train", 20.7)
WORKER = EndedProcess(9, 3.0, "worker chat/blue", 30.0, (9001,))
GONE = ServerAddress(2**22 + 1, 1.0, 8080, "2026-01-01T00:00:00+00:00", 8443)
"""No process has this id: it is above the system's highest."""


def test_what_was_freed_is_summed_up() -> None:
    report = DownReport("/home", (SERVER, STEP, WORKER))
    assert report.ports == (8080, 8443, 9001)
    assert report.memory_mb == 150.7


def test_each_process_is_told_with_its_ports_and_memory_then_what_goes_on_later() -> None:
    report = DownReport("/home", (SERVER, STEP, WORKER), ("j1/train",), ("chat/blue", "chat/green"))
    assert report.lines() == [
        "Ended server: process 7, port 8443, 8080, 100 MB",
        "Ended step j1/train: process 8, 21 MB",
        "Ended worker chat/blue: process 9, port 9001, 30 MB",
        "Cut off, to run again when the server starts: j1/train",
        "Served again when the server starts: chat/blue, chat/green",
        "Freed 3 processes, 3 ports, 151 MB and the lock of /home; looked again: none of them is left.",
    ]


def test_where_nothing_was_cut_off_nothing_is_said_of_it() -> None:
    assert [line.split()[0] for line in DownReport("/home", (SERVER,)).lines()] == ["Ended", "Freed"]


def test_nothing_to_end_is_told() -> None:
    assert DownReport("/home").lines() == ["Nothing was running on /home: no process, port or lock of it is there."]


def test_a_home_on_which_nothing_runs_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with Workspace(tmp_path / "home") as workspace:
        assert shut_down(workspace.home) == DownReport(str(tmp_path / "home"))
        assert workspace.home.holder() is None
    assert caplog.records == []


def test_the_address_of_a_server_that_is_gone_is_taken_away(tmp_path: Path) -> None:
    with Workspace(tmp_path / "home") as workspace:
        address_file(workspace.home).write_text(json.dumps(asdict(GONE)))
        shut_down(workspace.home)
        assert not address_file(workspace.home).exists()


def test_a_step_that_a_crash_left_running_is_put_back_and_named(tmp_path: Path) -> None:
    with Workspace(tmp_path / "home") as workspace:
        step = Step("j1", StepSpec("train", "c:1", "sha256:0", "true"), StepStatus.RUNNING, attempt=1)
        workspace.records.jobs.add(Job("j1", "j", "e", "c:1", status=JobStatus.RUNNING), [step])
        assert shut_down(workspace.home).steps == ("j1/train",)
        assert workspace.records.steps.of("j1")[0].status is StepStatus.WAITING


def test_on_a_full_disk_all_that_runs_is_ended_and_it_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("the disk is full")

    with Workspace(tmp_path / "home") as workspace:
        folder = workspace.home.jobs / "j1" / "train" / "1"
        LocalLauncher().start("sleep 600", folder, {})
        monkeypatch.setattr(shutdown, "_halt_loops", full)
        report = shut_down(workspace.home)
        assert {process.purpose for process in report.processes} == {"step j1/train"}
        assert report.lines()[-2].endswith("finds out what was cut off: the disk is full")
        assert not isinstance(LocalLauncher().status(folder), Running)
        assert shut_down(workspace.home).processes == ()
