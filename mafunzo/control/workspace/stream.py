"""A job as it happens: events read from the records and the steps' logs, and how they are shown."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from mafunzo.control.workspace.services import Services
from mafunzo.entities.job import NOTES, WEBHOOK, Job, JobStatus, Step, StepStatus
from mafunzo.entities.pruning import PruneKind, pruned_at
from mafunzo.tracking.log import lines_of, read_blocks, start_of_last
from mafunzo.tracking.printable import printable
from mafunzo.tracking.progress import progress_text
from mafunzo.tracking.step_folder import StepFolder

PROGRESS_S = 30.0
"""The least interval between two lines about the progress of one phase, where they stay."""


@dataclass(frozen=True)
class Event:
    """`job` and `step`: a status was reached. `line`: a step printed it. `progress`: a step told how far it is."""

    kind: Literal["job", "step", "line", "progress"]
    name: str
    text: str = ""
    status: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object without empty keys."""
        body: dict[str, Any] = {"event": self.kind, "name": self.name, "status": self.status, "text": self.text}
        return {key: value for key, value in (body | self.numbers).items() if value != ""}


@dataclass(frozen=True)
class Block:
    """Lines that a step has printed: where in its log they begin, and their bytes."""

    step: str
    path: Path
    start: int
    body: bytes

    def events(self) -> Iterator[Event]:
        """Yield the lines as events."""
        return (log_event(self.step, text) for _, text in lines_of(self.body))


def follow(
    services: Services, name: str, poll_s: float = 0.2, on_wait: Callable[[], None] = lambda: None
) -> Iterator[Event]:
    """Yield the events of a job from its beginning; return once it has ended.

    on_wait: called before each pause; it may raise what says that waiting is no use.
    """
    follower = Follower(services, name)
    while True:
        for part in follower.look():
            if isinstance(part, Block):
                yield from part.events()
            else:
                yield part
        if follower.is_over:
            return
        on_wait()
        time.sleep(poll_s)


class Follower:
    """Looks at a job again and again, and sees each time what is new; of the logs it holds a block at most.

    is_over: the job has ended, and all of it was seen.
    """

    def __init__(self, services: Services, name: str) -> None:
        self._services, self._name = services, name
        self._job_text: str | None = None
        self._step_texts: dict[str, str] = {}
        self._offsets: dict[Path, int] = {}
        self.is_over = False

    def look(self) -> Iterator[Event | Block]:
        """Yield what is new, as far as it is read from this. Raises `NotFound` for a job that isn't there any more."""
        job = self._services.records.jobs.get(self._name)
        steps = self._services.records.steps.of(self._name)
        if self._job_text is None:
            yield from _notes(job)
        is_news, self._job_text = _job_text(job) != self._job_text, _job_text(job)
        news = Event("job", self._name, self._job_text, str(job.status))
        if is_news and not job.status.is_terminal:
            yield news
        for step in steps:
            yield from self._look_at(step)
        if job.status.is_terminal and not self.is_over:
            yield news
            self.is_over = True

    def _look_at(self, step: Step) -> Iterator[Event | Block]:
        text = f"{step.status} {step.reason}".strip()
        is_news = self._step_texts.get(step.name) != text and not (
            step.status is StepStatus.WAITING and not step.reason
        )
        if is_news and not step.status.is_terminal:
            yield Event("step", step.name, step.reason, str(step.status))
        if step.attempt and step.status is not StepStatus.CACHED:
            yield from self._blocks(step)
        if is_news and step.status.is_terminal:
            yield Event("step", step.name, _ended_text(step), str(step.status), _duration(step))
        self._step_texts[step.name] = text

    def _blocks(self, step: Step) -> Iterator[Block]:
        path = StepFolder.of(self._services.home.jobs, step.job, step.name, step.attempt).log
        for start, body in read_blocks(path, self._offsets.get(path, 0), is_last=step.status.is_terminal):
            self._offsets[path] = start + len(body)
            yield Block(step.name, path, start, body)


def _notes(job: Job) -> Iterator[Event]:
    """Yield what is to be said of a job before anything that happens to it."""
    for note in job.properties.get(NOTES, ()):
        yield Event("line", job.name, note)
    if text := job.properties.get(WEBHOOK):
        yield Event("line", job.name, str(text))
    if moment := pruned_at(job, PruneKind.LOGS):
        yield Event("line", job.name, f"The logs of its steps were pruned on {moment:%Y-%m-%d}.")


def render(
    events: Iterable[Event], stream: TextIO, as_json: bool = False, clock: Callable[[], float] = time.monotonic
) -> None:
    """Write events as lines that people read, with one progress bar on a terminal; as JSON, one object a line.

    Elsewhere than on a terminal, in the log of a CI, say, progress is a line now and then (`PROGRESS_S`).
    """
    if stream.isatty() and not as_json:
        _render_bar(events, stream)
        return
    for line in _json_lines(events) if as_json else _plain_lines(events, clock):
        stream.write(line + "\n")
        stream.flush()


def _render_bar(events: Iterable[Event], stream: TextIO) -> None:
    bar = ""
    for event in events:
        if event.kind == "progress":
            bar = printable(_bar(event))
            stream.write("\r\x1b[2K" + bar)
        else:
            stream.write(("\r\x1b[2K" if bar else "") + printable(_line(event)) + "\n")
            bar = ""
        stream.flush()
    if bar:
        stream.write("\n")


def _json_lines(events: Iterable[Event]) -> Iterator[str]:
    for event in events:
        yield json.dumps(event.as_dict(), ensure_ascii=False)


def _plain_lines(events: Iterable[Event], clock: Callable[[], float]) -> Iterator[str]:
    """Yield a line for each event; of the progress of a phase the first, the last, and one every `PROGRESS_S` seconds."""
    phase, shown_at_s = "", 0.0
    for event in events:
        if event.kind != "progress":
            yield _line(event)
            continue
        own_phase = f"{event.name} {event.numbers.get('phase')}"
        is_last = event.numbers.get("done") == event.numbers.get("total")
        if own_phase != phase or is_last or clock() - shown_at_s >= PROGRESS_S:
            phase, shown_at_s = own_phase, clock()
            yield f"  {_bar(event)}"


def readable(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a step's log with its progress as people read it, as it was last in each run of such lines."""
    bar: str | None = None
    for line in lines:
        event = log_event("", line)
        if event.kind == "progress":
            bar = _bar(event).removeprefix(": ")
            continue
        if bar is not None:
            yield bar
            bar = None
        yield line
    if bar is not None:
        yield bar


def last_lines_of(path: Path, count: int) -> list[str]:
    """Return the last readable lines of a log, read from its end: only so much of it as they need."""
    raw_count = count
    while True:
        start = start_of_last(path, raw_count)
        texts = (text for _, body in read_blocks(path, start, is_last=True) for _, text in lines_of(body))
        lines = deque(readable(texts), maxlen=count)
        if start == 0 or len(lines) >= count:
            return list(lines)
        raw_count *= 8  # many of them were progress


def log_event(step: str, line: str) -> Event:
    """Return the event that a line of a step's log is."""
    if line.startswith('{"event": "progress"'):
        try:
            numbers = json.loads(line)
        except ValueError:
            return Event("line", step, line)
        numbers.pop("event")
        return Event("progress", step, numbers=numbers)
    return Event("line", step, line)


def _job_text(job: Job) -> str:
    if job.status is JobStatus.FAILED:
        return f"failed: {(job.error or {}).get('message', '')}".strip(": ")
    return str(job.status)


def _ended_text(step: Step) -> str:
    return str(step.error["message"]) if step.error and step.error.get("message") else step.reason


def _duration(step: Step) -> dict[str, Any]:
    if step.started_at is None or step.ended_at is None:
        return {}
    return {"seconds": round((step.ended_at - step.started_at).total_seconds(), 1)}


def _bar(event: Event) -> str:
    numbers = dict(event.numbers)
    phase, done, total, eta_s = (numbers.pop(key, None) for key in ("phase", "done", "total", "eta_s"))
    return progress_text(f"{event.name}: {phase}", int(done or 0), int(total or 0), eta_s, numbers)


def _line(event: Event) -> str:
    if event.kind == "line":
        return f"  {event.text}"
    took = f" in {event.numbers['seconds']:g} s" if event.numbers.get("seconds") is not None else ""
    text = f": {event.text}" if event.text and event.text != event.status else ""
    noun = "job" if event.kind == "job" else "step"
    return f"{noun} {event.name} {event.status}{took}{text}"
