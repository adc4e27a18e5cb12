"""Tests of `mafunzo.control.workspace.stream`: which events a job has, and how they are shown."""

import io
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.stream import Block, Event, follow, last_lines_of, readable, render
from mafunzo.entities.job import Job, JobStatus, Step, StepSpec, StepStatus
from mafunzo.errors import NotFound

EVENTS = [
    Event("job", "j1", "running", "running"),
    Event("step", "finetune", "it runs for the first time", "running"),
    Event("progress", "finetune", numbers={"phase": "train", "done": 5, "total": 10, "eta_s": 65.0, "loss": 2.5}),
    Event("line", "finetune", "a line of the log"),
    Event("step", "finetune", "", "completed", {"seconds": 12.5}),
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal], ids=["a pipe", "a terminal"])
def test_as_json_every_event_is_one_object_a_line(kind: type[io.StringIO]) -> None:
    stream = kind()
    render(EVENTS, stream, as_json=True)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["job", "step", "progress", "line", "step"]
    assert lines[2] == {
        "event": "progress",
        "name": "finetune",
        "phase": "train",
        "done": 5,
        "total": 10,
        "eta_s": 65.0,
        "loss": 2.5,
    }
    assert lines[4]["seconds"] == 12.5


def test_on_a_terminal_progress_is_one_bar_that_gives_way_to_lines():
    stream = Terminal()
    render(EVENTS, stream)
    shown = stream.getvalue()
    assert "finetune: train 5/10 [##########..........] loss 2.5 ETA 1:05" in shown
    assert "\r\x1b[2K  a line of the log\n" in shown
    assert "step finetune completed in 12.5 s\n" in shown


def test_elsewhere_every_event_is_a_line_that_people_read() -> None:
    stream = io.StringIO()
    render(EVENTS, stream)
    assert stream.getvalue().splitlines() == [
        "job j1 running",
        "step finetune running: it runs for the first time",
        "  finetune: train 5/10 [##########..........] loss 2.5 ETA 1:05",
        "  a line of the log",
        "step finetune completed in 12.5 s",
    ]


def test_elsewhere_progress_is_told_now_and_then() -> None:
    """Each phase's first and last, and one every 30 s; here they come 10 s apart."""
    phases = [
        Event("progress", "x", numbers={"phase": phase, "done": n, "total": 9}) for phase in "ab" for n in range(1, 10)
    ]
    stream, times = io.StringIO(), (10.0 * n for n in range(1000))
    now_s = 0.0

    def events() -> Iterator[Event]:
        nonlocal now_s
        for event in phases:
            now_s = next(times)
            yield event

    render(events(), stream, clock=lambda: now_s)
    shown = [line.split()[1:3] for line in stream.getvalue().splitlines()]
    assert shown == [[phase, f"{n}/9"] for phase in "ab" for n in (1, 4, 7, 9)]


def test_a_log_is_readable_without_the_lines_that_are_for_programs() -> None:
    progress = [json.dumps({"event": "progress", "phase": "train", "done": n, "total": 2, "eta_s": 0}) for n in (1, 2)]
    log = ["begins", *progress, "between", progress[0], '{"event": "other"}']
    assert list(readable(log)) == [
        "begins",
        "train 2/2 [####################] ETA 0:00",
        "between",
        "train 1/2 [##########..........] ETA 0:00",
        '{"event": "other"}',
    ]


SPEC = StepSpec("train", "c:1", "sha256:0", "true")
BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def write_log(workspace: Workspace, text: str, mode: str = "w") -> None:
    folder = workspace.home.jobs / "j1" / "train" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open(mode) as file:
        file.write(text)


def change(workspace: Workspace, job: JobStatus, step: Step, **more: Any) -> None:
    workspace.records.steps.update(step)
    workspace.records.jobs.update(replace(workspace.records.jobs.get("j1"), status=job, **more))


def test_a_terminal_obeys_nothing_that_a_step_has_printed() -> None:
    events = [
        Event("line", "train", "\x1b[2J\x1b]0;mine\x07hello"),
        Event("progress", "train", numbers={"phase": "\x1b[2J", "done": 1, "total": 2}),
        Event("step", "train", "\x1b[2J", "failed"),
    ]
    render(events, terminal := Terminal())
    assert terminal.getvalue().replace("\r\x1b[2K", "").count("\x1b") == 0
    assert "\u241b[2J\u241b]0;mine\u2407hello" in terminal.getvalue()


def test_a_job_is_followed_from_its_beginning_to_its_end(workspace: Workspace) -> None:
    step = Step("j1", SPEC)
    workspace.records.jobs.add(Job("j1", "j", "e", "c:1"), [step])
    runs = replace(step, status=StepStatus.RUNNING, attempt=1, reason="it is new", started_at=BEGAN)
    progress = {"event": "progress", "phase": "learn", "done": 1, "total": 2}

    def begin() -> None:
        write_log(workspace, f"one\n{json.dumps(progress)}\nhal")
        change(workspace, JobStatus.RUNNING, runs)

    def finish() -> None:
        write_log(workspace, "f a line\nlast", mode="a")
        ended = replace(runs, status=StepStatus.COMPLETED, ended_at=BEGAN + timedelta(seconds=2.5))
        change(workspace, JobStatus.COMPLETED, ended)

    acts = iter([begin, finish])
    assert list(follow(workspace.services, "j1", poll_s=0, on_wait=lambda: next(acts)())) == [
        Event("job", "j1", "queued", "queued"),
        Event("job", "j1", "running", "running"),
        Event("step", "train", "it is new", "running"),
        Event("line", "train", "one"),
        Event("progress", "train", numbers={"phase": "learn", "done": 1, "total": 2}),
        Event("line", "train", "half a line"),
        Event("line", "train", "last"),
        Event("step", "train", "it is new", "completed", {"seconds": 2.5}),
        Event("job", "j1", "completed", "completed"),
    ]


@pytest.mark.parametrize(
    ("step", "events"),
    [
        pytest.param(
            Step("j1", SPEC, StepStatus.FAILED, 1, error={"message": "no memory"}),
            [Event("line", "train", "hello"), Event("step", "train", "no memory", "failed")],
            id="a failed one with its error",
        ),
        pytest.param(
            Step("j1", SPEC, StepStatus.CACHED, 1, reason="as in j0"),
            [Event("step", "train", "as in j0", "cached")],
            id="a cached one without the log of the one that ran",
        ),
        pytest.param(
            Step("j1", SPEC, StepStatus.SKIPPED, reason="import failed"),
            [Event("step", "train", "import failed", "skipped")],
            id="a skipped one with why",
        ),
    ],
)
def test_a_step_that_has_ended_is_told(step: Step, events: list[Event], workspace: Workspace) -> None:
    error = {"message": "step train failed"}
    job = Job("j1", "j", "e", "c:1", status=JobStatus.FAILED, error=error)
    workspace.records.jobs.add(job, [step])
    write_log(workspace, "hello\n")
    end = Event("job", "j1", "failed: step train failed", "failed")
    assert list(follow(workspace.services, "j1")) == [*events, end]


def test_a_line_that_only_looks_like_progress_is_a_line(workspace: Workspace) -> None:
    workspace.records.jobs.add(
        Job("j1", "j", "e", "c:1", status=JobStatus.COMPLETED), [Step("j1", SPEC, StepStatus.COMPLETED, 1)]
    )
    write_log(workspace, '{"event": "progress", cut off\n')
    assert Event("line", "train", '{"event": "progress", cut off') in list(follow(workspace.services, "j1"))


def test_a_job_that_is_not_there_is_not_followed(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match="No job 'none'"):
        next(follow(workspace.services, "none"))


def test_what_a_job_does_with_its_rows_is_said_first(workspace: Workspace) -> None:
    job = Job("j1", "j", "e", "c:1", status=JobStatus.COMPLETED, properties={"notes": ["3 rows repeat"]})
    workspace.records.jobs.add(job, [])
    assert next(iter(follow(workspace.services, "j1"))) == Event("line", "j1", "3 rows repeat")


@pytest.mark.parametrize("unit", ["x" * 1023 + "\n", "." * 1024], ids=["lines", "a line without an end"])
def test_a_long_log_is_followed_in_the_memory_of_a_few_blocks(unit: str, workspace: Workspace) -> None:
    job = Job("j1", "j", "e", "c:1", status=JobStatus.COMPLETED)
    workspace.records.jobs.add(job, [Step("j1", SPEC, StepStatus.COMPLETED, 1)])
    write_log(workspace, unit * (10 * 2**20 // len(unit)))
    tracemalloc.start()
    try:
        size = sum(len(event.text) for event in follow(workspace.services, "j1") if event.kind == "line")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 10 * 2**20 // len(unit) * len(unit.rstrip())
    assert peak < 4 * 2**20


def test_a_look_reads_only_what_was_there_when_it_began(workspace: Workspace) -> None:
    """A step that prints faster than it is read must not keep who follows it from seeing that the job has ended."""
    job = Job("j1", "j", "e", "c:1", status=JobStatus.RUNNING)
    workspace.records.jobs.add(job, [Step("j1", SPEC, StepStatus.RUNNING, 1)])
    write_log(workspace, "a line\n" * 100_000)
    follower = workspace.jobs.get("j1").follower()
    blocks = 0
    for part in follower.look():
        if isinstance(part, Block):
            blocks += 1
            write_log(workspace, "a line\n" * 100_000, mode="a")
    assert blocks == 3


def test_the_last_readable_lines_are_found_behind_much_progress(workspace: Workspace) -> None:
    event = json.dumps({"event": "progress", "phase": "train", "done": 1, "total": 2}) + "\n"
    write_log(workspace, "one\ntwo\n" + event * 100 + "three\n")
    log = workspace.home.jobs / "j1" / "train" / "1" / "log.txt"
    assert last_lines_of(log, 3) == ["two", "train 1/2 [##########..........]", "three"]
    assert last_lines_of(log, 9)[0] == "one"
