"""A job as it happens: events read from the records and the steps' logs, and how they are shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from mafunzo.control.workspace.services import Services
from mafunzo.entities.job import NOTES, Job, JobStatus, Step, StepStatus
from mafunzo.entities.pruning import PruneKind, pruned_at
from mafunzo.tracking.printable import printable
from mafunzo.tracking.progress import progress_text
from mafunzo.tracking.regular_file import is_regular, open_regular
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


def follow(
    services: Services, name: str, poll_s: float = 0.2, on_wait: Callable[[], None] = lambda: None
) -> Iterator[Event]:
    """Yield the events of a job from its beginning; return once it has ended.

    on_wait: called before each pause; it may raise what says that waiting is no use.
    """
    job_text = ""
    step_texts: dict[str, str] = {}
    logs: dict[str, _Tail] = {}
    job = services.records.jobs.get(name)
    for note in job.properties.get(NOTES, ()):
        yield Event("line", name, note)
    if moment := pruned_at(job, PruneKind.LOGS):
        yield Event("line", name, f"The logs of its steps were pruned on {moment:%Y-%m-%d}.")
    while True:
        job = services.records.jobs.get(name)
        steps = services.records.steps.of(name)
        is_news, job_text = _job_text(job) != job_text, _job_text(job)
        news = Event("job", name, job_text, str(job.status))
        if is_news and not job.status.is_terminal:
            yield news
        for step in steps:
            yield from _follow_step(services, step, step_texts, logs)
        if job.status.is_terminal:
            yield news
            return
        on_wait()
        time.sleep(poll_s)


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


def readable(log: str) -> str:
    """Return a step's log with its progress as people read it, as it was last in each run of such lines."""
    lines: list[str] = []
    was_progress = False
    for line in log.splitlines():
        event = _log_event("", line)
        is_progress = event.kind == "progress"
        if is_progress and was_progress:
            lines.pop()
        lines.append(_bar(event).removeprefix(": ") if is_progress else line)
        was_progress = is_progress
    return "\n".join(lines)


def _follow_step(services: Services, step: Step, step_texts: dict[str, str], logs: dict[str, _Tail]) -> Iterator[Event]:
    step_text = f"{step.status} {step.reason}".strip()
    is_news = step_texts.get(step.name) != step_text and not (step.status is StepStatus.WAITING and not step.reason)
    if is_news and not step.status.is_terminal:
        yield Event("step", step.name, step.reason, str(step.status))
    if step.attempt and step.status is not StepStatus.CACHED:
        path = StepFolder.of(services.home.jobs, step.job, step.name, step.attempt).log
        tail = logs.setdefault(f"{step.name}/{step.attempt}", _Tail(path))
        yield from (_log_event(step.name, line) for line in tail.lines(is_last=step.status.is_terminal))
    if is_news and step.status.is_terminal:
        yield Event("step", step.name, _ended_text(step), str(step.status), _duration(step))
    step_texts[step.name] = step_text


class _Tail:
    """The lines of a growing file, each once."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def lines(self, is_last: bool) -> Iterator[str]:
        if not is_regular(self._path):
            return
        with open_regular(self._path) as file:
            file.seek(self._offset)
            body = file.read()
        end = len(body) if is_last else body.rfind(b"\n") + 1
        self._offset += end
        yield from body[:end].decode("utf-8", "replace").splitlines()


def _log_event(step: str, line: str) -> Event:
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
