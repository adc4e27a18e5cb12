"""Tests of `mafunzo.entrypoints.azure.job_log`: one text that only grows, made of a job's events."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.stream import Event
from mafunzo.entities.job import Job, JobStatus, Step, StepSpec, StepStatus
from mafunzo.entrypoints.azure import job_log
from mafunzo.entrypoints.azure.job_log import JobLogs, Lines
from mafunzo.errors import NotFound

SPEC = StepSpec("train", "train:1", "sha256:0", "true")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def ended(workspace: Workspace, name: str = "j1") -> None:
    step = Step(name, SPEC, StepStatus.COMPLETED, attempt=1)
    workspace.records.jobs.add(Job(name, name, "chat", "c:1", status=JobStatus.COMPLETED), [step])
    (folder := workspace.home.jobs / name / "train" / "1").mkdir(parents=True)
    (folder / "log.txt").write_text("hello\n")


def test_of_a_job_that_has_ended_all_is_there_at_once(workspace: Workspace) -> None:
    ended(workspace)
    logs = JobLogs(workspace)
    assert logs.text("j1") == "train: hello\nstep train completed\njob j1 completed\n"
    assert logs.text("j1") == (workspace.home.jobs / "j1" / "stream.txt").read_text()


def test_a_job_is_followed_once(workspace: Workspace) -> None:
    ended(workspace)
    logs = JobLogs(workspace)
    assert [logs.begin("j1"), logs.begin("j1")] == [True, False]


def test_what_an_earlier_server_left_is_written_anew(workspace: Workspace) -> None:
    ended(workspace)
    (workspace.home.jobs / "j1" / "stream.txt").write_text("cut o")
    assert JobLogs(workspace).text("j1").startswith("train: hello\n")


def test_a_job_that_is_not_there_is_refused(workspace: Workspace) -> None:
    for attempt in (JobLogs(workspace).begin, JobLogs(workspace).text):
        with pytest.raises(NotFound, match="No job 'none'"):
            attempt("none")
    assert not (workspace.home.jobs / "none").exists()


@pytest.mark.parametrize(
    ("event", "line"),
    [
        pytest.param(Event("line", "train", "hello"), "train: hello", id="a line of a step"),
        pytest.param(Event("job", "j1", "running", "running"), "job j1 running", id="a status"),
        pytest.param(Event("job", "j1", "failed: no memory", "failed"), "job j1 failed: no memory", id="a failure"),
        pytest.param(Event("step", "train", "new", "running"), "step train running: new", id="why a step runs"),
        pytest.param(
            Event("step", "train", "new", "completed", {"seconds": 12.5}),
            "step train completed in 12.5 s",
            id="its time",
        ),
        pytest.param(
            Event("step", "train", "broke", "failed", {"seconds": 2.0}), "step train failed in 2 s: broke", id="why"
        ),
    ],
)
def test_an_event_is_a_line(event: Event, line: str) -> None:
    assert Lines().of(event) == line


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_of_progress_one_line_in_five_seconds_is_told_and_the_last_of_each_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_log, "time", clock := Clock())
    lines = Lines()

    def progress(phase: str, done: int) -> str | None:
        return lines.of(Event("progress", "train", numbers={"phase": phase, "done": done, "total": 4, "loss": 2.5}))

    assert progress("learn", 1) == "train: learn 1/4 [#####...............] loss 2.5"
    clock.now += 4.9
    assert progress("learn", 2) is None
    assert progress("test", 2) is not None, "another phase has its own five seconds"
    clock.now += 0.2
    assert progress("learn", 3) is not None
    assert progress("learn", 4) == "train: learn 4/4 [####################] loss 2.5"
