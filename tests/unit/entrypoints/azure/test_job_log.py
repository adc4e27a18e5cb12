"""Tests of `mafunzo.entrypoints.azure.job_log`: one text that only grows, made of a job's events."""

import json
import random
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


def text(logs: JobLogs, job: str = "j1") -> str:
    log, size = logs.get(job)
    return b"".join(log.read(0, size)).decode()


def test_of_a_job_that_has_ended_all_is_there_at_once(workspace: Workspace) -> None:
    ended(workspace)
    logs = JobLogs(workspace)
    assert text(logs) == "train: hello\nstep train completed\njob j1 completed\n"
    assert text(logs) == text(logs)
    assert [path.name for path in workspace.home.jobs.rglob("*") if path.is_file()] == ["log.txt"], "no second copy"


def test_a_job_is_followed_once(workspace: Workspace) -> None:
    ended(workspace)
    logs = JobLogs(workspace)
    assert [logs.begin("j1"), logs.begin("j1")] == [True, False]


def test_what_an_earlier_server_left_is_written_anew(workspace: Workspace) -> None:
    ended(workspace)
    (workspace.home.jobs / "j1" / "stream.txt").write_text("cut o")
    assert text(JobLogs(workspace)).startswith("train: hello\n")


def test_a_job_that_is_not_there_is_refused(workspace: Workspace) -> None:
    for attempt in (JobLogs(workspace).begin, JobLogs(workspace).get):
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


def progress(done: int, total: int = 9, phase: str = "learn") -> str:
    return json.dumps({"event": "progress", "phase": phase, "done": done, "total": total}) + "\n"


def running(workspace: Workspace, body: str) -> Path:
    """A job that runs, and the log of its step."""
    step = Step("j1", SPEC, StepStatus.RUNNING, attempt=1)
    workspace.records.jobs.add(Job("j1", "j1", "chat", "c:1", status=JobStatus.RUNNING), [step])
    (folder := workspace.home.jobs / "j1" / "train" / "1").mkdir(parents=True)
    (folder / "log.txt").write_text(body)
    return folder / "log.txt"


def test_the_text_only_grows_and_every_range_of_it_stays_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "time", clock := Clock())
    file = running(workspace, "")
    logs, earlier = JobLogs(workspace), ""
    rng = random.Random(0)
    for _ in range(30):
        with file.open("a") as stream:
            for _ in range(rng.randint(0, 4)):
                stream.write(rng.choice(["hello\n", "hälf", "a\rb\n", progress(rng.randint(1, 9)), "\n"]))
        clock.now += rng.choice([0.1, 3.0, 6.0])
        now = text(logs)
        assert now.startswith(earlier)
        earlier = now
    log, size = logs.get("j1")
    whole = earlier.encode()
    assert size == len(whole)
    for first in range(size):
        last = rng.randint(first, size)
        assert b"".join(log.read(first, last)) == whole[first:last]


@pytest.mark.parametrize(
    "unit", ["x" * 1023 + "\n", "." * 1024, "\u00e4" * 511 + "x\n"], ids=["lines", "dots", "beyond ASCII"]
)
def test_a_long_log_is_sent_in_the_memory_of_a_few_blocks(unit: str, workspace: Workspace) -> None:
    running(workspace, unit * (20 * 2**20 // len(unit.encode())))
    logs = JobLogs(workspace)
    tracemalloc.start()
    try:
        log, size = logs.get("j1")
        sent = sum(map(len, log.read(0, size)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent == size > 20 * 2**20 * 0.99
    assert peak < 8 * 2**20


def test_a_text_whose_logs_were_deleted_is_made_anew(workspace: Workspace) -> None:
    ended(workspace)
    logs = JobLogs(workspace)
    log, size = logs.get("j1")
    (workspace.home.jobs / "j1" / "train" / "1" / "log.txt").unlink()
    assert b"".join(log.read(0, size)) == b""
    assert text(logs) == "step train completed\njob j1 completed\n"


def test_of_many_jobs_those_asked_for_lately_are_kept(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "JOBS_AT_ONCE", 2)
    for name in ("a", "b", "c"):
        ended(workspace, name)
    logs = JobLogs(workspace)
    assert [logs.begin(name) for name in ("a", "b", "a", "c", "a", "b")] == [True, True, False, True, False, True]


def test_two_who_ask_at_once_get_the_same_text(workspace: Workspace) -> None:
    running(workspace, "a line\n" * 100_000)
    logs = JobLogs(workspace)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: text(logs), range(4)))
    assert len(set(found)) == 1 and found[0].count("train: a line\n") == 100_000
