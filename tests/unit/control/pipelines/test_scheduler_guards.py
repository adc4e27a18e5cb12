"""What one job leaves behind, or what is wrong with it, is that job's alone: the others go on, and the scheduler with them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.launcher.local import LocalLauncher, Running, last_lines
from mafunzo.control.pipelines import scheduler as scheduler_module
from mafunzo.control.pipelines.attempt import clean, failure, logged_values
from mafunzo.control.pipelines.decide import JobState, State
from mafunzo.control.pipelines.observer import Observer
from mafunzo.entities.job import Job, JobStatus
from mafunzo.errors import StepFailed
from mafunzo.tracking.step_folder import StepFolder
from tests.support.pipeline_bench import Bench, shell

HOLD = shell("hold", "echo holding; until [ -e ${{inputs.gate}} ]; do sleep 0.02; done; echo done > ${{outputs.out}}")
OTHER = shell("other", "echo fine > ${{outputs.out}}")
KINDS: list[Any] = [
    pytest.param(lambda path: path.symlink_to("/etc/hostname"), id="a link to a file"),
    pytest.param(lambda path: path.symlink_to("/"), id="a link to a folder"),
    pytest.param(lambda path: path.symlink_to(path.name), id="a link to itself"),
    pytest.param(os.mkfifo, id="a pipe at which whoever opens it waits"),
    pytest.param(Path.mkdir, id="a folder"),
    pytest.param(lambda path: path.write_text("{}"), id="an empty object"),
    pytest.param(lambda path: path.write_text("[" * 100_000), id="nested without end"),
    pytest.param(lambda path: path.write_bytes(b"\xff\xfe"), id="no text"),
    pytest.param(lambda path: path.write_text('{"pid": "x", "pid_start": []}'), id="other types"),
    pytest.param(
        lambda path: path.write_text('{"pid": 99999999999999999999, "pid_start": 1}'), id="a number too large"
    ),
]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a folder of the user's own, with a file in it, that nobody but its owner may write to."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    folder.chmod(0o555)
    return folder


@pytest.mark.parametrize("name", ["inputs", "outputs", "code", "environment"])
def test_a_link_that_a_step_left_is_deleted_and_what_it_leads_to_stays_as_it_is(
    name: str, bench: Bench, elsewhere: Path
) -> None:
    bench.run("left", OTHER)
    (bench.folder("left", "other") / name).symlink_to(elsewhere)
    bench.scheduler = bench.new_scheduler()
    assert bench.run("next", OTHER, force_rerun=True).status is JobStatus.COMPLETED
    assert not (bench.folder("left", "other") / name).is_symlink()
    assert ((elsewhere / "mine.txt").read_text(), elsewhere.stat().st_mode & 0o777) == ("mine", 0o555)


def test_a_link_in_place_of_an_attempt_s_own_folder_is_deleted_too(tmp_path: Path, elsewhere: Path) -> None:
    elsewhere.chmod(0o755)
    (elsewhere / "outputs").mkdir()
    (tmp_path / "1").symlink_to(elsewhere)
    clean(tmp_path / "1")
    assert (elsewhere / "outputs").exists() and not (tmp_path / "1").is_symlink()


def test_a_file_system_mounted_in_what_a_step_left_is_told_and_stops_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.run("left", OTHER)
    mount = bench.folder("left", "other") / "inputs" / "a disk"
    mount.mkdir(parents=True)
    (mount / "theirs.txt").write_text("theirs")
    mounts = bench.root / "mountinfo"
    mounts.write_text(f"36 35 98:0 / {str(mount).replace(' ', chr(92) + '040')} rw - ext3 /dev/root rw\n")
    monkeypatch.setattr("mafunzo.control.store.disk.MOUNTS", mounts)
    bench.scheduler = bench.new_scheduler()
    assert bench.run("next", OTHER, force_rerun=True).status is JobStatus.COMPLETED
    assert (mount / "theirs.txt").exists()
    assert "can't be deleted" in caplog.text and "A file system is mounted there" in caplog.text


@pytest.mark.parametrize("leave", KINDS)
@pytest.mark.parametrize("file", ["exit.json", "process.json", "error.json", "metrics.jsonl", "log.txt"])
def test_whatever_a_step_leaves_in_place_of_its_records_is_looked_at_without_harm(
    file: str, leave: Callable[[Path], object], tmp_path: Path
) -> None:
    (folder := tmp_path / "1").mkdir()
    leave(folder / file)
    launcher = LocalLauncher()
    assert not isinstance(launcher.status(folder), Running)
    assert launcher.record(folder) is None
    assert launcher.was_cut_off(folder) in (True, False)
    assert logged_values(folder, "loss") == ()
    assert all(line.isprintable() for line in last_lines(folder / "log.txt"))
    launcher.kill(folder, grace_s=0)


@pytest.mark.parametrize("file", ["exit.json", "process.json", "error.json", "metrics.jsonl", "log.txt"])
def test_a_step_that_leaves_a_pipe_in_place_of_a_record_keeps_nobody_waiting(file: str, bench: Bench) -> None:
    bench.submit("odd", HOLD, {"gate": str(bench.root / "gate")})
    bench.until(lambda: "holding" in bench.log("odd", "hold"))
    (path := bench.folder("odd", "hold") / file).unlink(missing_ok=True)
    os.mkfifo(path)
    assert bench.run("next", OTHER, force_rerun=True).status is JobStatus.COMPLETED


@pytest.mark.parametrize("leave", KINDS)
def test_a_step_whose_reason_can_not_be_read_fails_by_how_it_ended(
    leave: Callable[[Path], object], bench: Bench
) -> None:
    bench.submit("odd", shell("odd", "exit 3; : ${{outputs.out}}"))
    step = bench.step("odd", "odd")
    folder = bench.home.jobs / "odd" / "odd" / "1"
    folder.mkdir(parents=True)
    leave(folder / "error.json")
    leave(folder / "log.txt")
    assert step.attempt == 0
    assert failure(step, folder, None, "")["code"] == StepFailed.code


def test_an_output_that_leads_out_of_the_step_s_folder_is_refused_by_name(bench: Bench, elsewhere: Path) -> None:
    job = bench.run("out", shell("out", f"ln -s {elsewhere / 'mine.txt'} ${{{{outputs.out}}}}"))
    assert job.status is JobStatus.FAILED
    assert job.error is not None and "leads out of the step's folder" in job.error["faults"][0]


def test_a_job_that_can_not_be_looked_at_is_failed_by_name_and_the_others_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Observer.job_state

    def broken(self: Observer, job: Job, busy: Any) -> JobState:
        if job.name == "odd":
            raise ValueError("its rows make no sense")
        return look(self, job, busy)

    monkeypatch.setattr(Observer, "job_state", broken)
    bench.submit("odd", OTHER)
    bench.submit("next", OTHER)
    assert bench.finish("odd", "next").status is JobStatus.COMPLETED
    odd = bench.records.jobs.get("odd")
    assert odd.status is JobStatus.FAILED and odd.error is not None
    assert odd.error["message"] == "Job 'odd' can't be gone on with: ValueError: its rows make no sense"
    assert bench.statuses("odd") == {"other": "failed"}


def test_a_job_about_which_nothing_can_be_decided_is_failed_by_name_and_the_others_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = scheduler_module.decide

    def broken(state: State, left: Any, now: Any) -> Any:
        if any(job.job.name == "odd" for job in state.jobs):
            raise KeyError("nobody")
        return decide(state, left, now)

    monkeypatch.setattr(scheduler_module, "decide", broken)
    bench.submit("odd", OTHER)
    bench.submit("next", OTHER)
    assert bench.finish("odd", "next").status is JobStatus.COMPLETED
    assert bench.records.jobs.get("odd").status is JobStatus.FAILED


def test_an_action_that_breaks_is_tried_again_and_the_others_are_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "PAUSE_S", 0.05)
    write, breaks = bench.scheduler._performer.write_key, iter([True, True])

    def broken(step: Any, key: Any) -> None:
        if step.job == "odd" and next(breaks, False):
            raise PermissionError("its folder is read-only")
        write(step, key)

    monkeypatch.setattr(bench.scheduler._performer, "write_key", broken)
    bench.submit("odd", OTHER)
    bench.submit("next", OTHER, force_rerun=True)
    bench.finish("odd", "next")
    assert {bench.records.jobs.get(name).status for name in ("odd", "next")} == {JobStatus.COMPLETED}
    assert bench.leases.list() == []


def test_one_step_that_can_not_be_put_back_does_not_keep_the_others_running(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("odd", "plain"):
        bench.submit(name, HOLD, {"gate": str(bench.root / f"gate-{name}")})
    bench.until(lambda: all("holding" in bench.log(name, "hold") for name in ("odd", "plain")))
    bench.scheduler.close()
    put_back = bench.scheduler._performer.put_back

    def broken(step: Any, *rest: Any) -> None:
        if step.job == "odd":
            raise RuntimeError("database or disk is full")
        put_back(step, *rest)

    monkeypatch.setattr(bench.scheduler._performer, "put_back", broken)
    assert bench.scheduler.halt() == ["plain/hold"]


def test_a_step_that_can_not_be_given_its_cores_fails_and_the_others_go_on(bench: Bench) -> None:
    bench.submit("odd", HOLD, {"gate": str(bench.root / "gate")})
    bench.until(lambda: "holding" in bench.log("odd", "hold"))
    folder = StepFolder(bench.folder("odd", "hold"))
    folder.built.touch()
    folder.without_cores.mkdir()
    bench.submit("next", OTHER, force_rerun=True)
    assert bench.finish("odd", "next").status is JobStatus.COMPLETED
    assert bench.records.jobs.get("odd").status is JobStatus.FAILED
    assert bench.leftovers() == []
