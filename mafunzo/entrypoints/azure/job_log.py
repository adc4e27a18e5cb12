"""A job's log so far, as an append-only text: what the Azure SDK's `jobs.stream` shows.

The text is kept nowhere: it is made, a block at a time, of the steps' logs whenever it is asked for. What is kept is an index,

    offset in the text    part
    0                     "job j running\\nstep train running: it runs for the first time\\n"
    58                    bytes 0 to 262144 of train's log, of its progress the lines that stand at 812 and 6211
    301877                bytes 262144 to 524288 ...

so that any range of it can be read, and one that was read is always the same.
"""

import re
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.stream import Block, Event, Follower, log_event
from mafunzo.errors import NotFound
from mafunzo.tracking.log import BLOCK_BYTES, LINE_BYTES, lines_of, read_blocks
from mafunzo.tracking.progress import progress_text

PROGRESS_S = 5.0
"""The least interval between two progress lines of one phase."""
JOBS_AT_ONCE = 100
"""Of how many jobs an index is kept; those that were asked for least lately go first."""
_PROGRESS = b'{"event": "progress"'
_OTHER_LINE_ENDS = re.compile(rb"[\r\x0b\x0c\x1c-\x1e]")


@dataclass
class Part:
    """A stretch of a job's text: its own words, or the lines of a step's log from `start` to `end`.

    shown: the lines of progress that are shown though they aren't the last of their phase, by where they stand in the log.
    """

    words: bytes = b""
    step: str = ""
    path: Path = Path()
    start: int = 0
    end: int = 0
    shown: set[int] = field(default_factory=set)

    def text(self) -> bytes:
        """Return the stretch, a block at most; what was deleted since is missing."""
        if not self.path.name:
            return self.words
        blocks = read_blocks(self.path, self.start, self.end, is_last=True)
        return b"".join(_block_text(self.step, start, body, self.shown) for start, body in blocks)


class JobLog:
    """The text of one job, as far as `advance` has seen it."""

    def __init__(self, follower: Follower) -> None:
        self._follower, self._lines = follower, Lines()
        self._parts: list[Part] = []
        self._offsets: list[int] = []
        self._growing = threading.Lock()
        self.size = 0

    def advance(self) -> int:
        """See what is new, and return how many bytes the text has now; raises `NotFound`."""
        with self._growing:
            for new in self._follower.look():
                if isinstance(new, Block):
                    self._add_block(new)
                elif (line := self._lines.of(new)) is not None:
                    self._add(Part((line + "\n").encode(errors="replace")), len((line + "\n").encode(errors="replace")))
            return self.size

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of the text from `start` to `end`, a block at a time."""
        number = max(0, bisect_right(self._offsets, start) - 1)
        for part, offset in zip(self._parts[number:], self._offsets[number:], strict=False):
            if not offset <= start < end:  # at the end, or where a step's log has lost its end
                return
            piece = part.text()[start - offset : end - offset]
            yield piece
            start += len(piece)

    def is_whole(self) -> bool:
        """Return whether all the logs that it is made of are still there."""
        return all(path.exists() for path in {part.path for part in self._parts if part.path.name})

    def _add_block(self, block: Block) -> None:
        shown: set[int] = set()
        if _PROGRESS in block.body:
            events = ((block.start + at, log_event(block.step, text)) for at, text in lines_of(block.body))
            progress = ((at, event) for at, event in events if event.kind == "progress")
            shown = {at for at, event in progress if self._lines.of(event) and not _is_last_of_phase(event)}
        size = len(_block_text(block.step, block.start, block.body, shown))
        end = block.start + len(block.body)
        last = self._parts[-1] if self._parts else None
        if last is not None and (last.path, last.end) == (block.path, block.start) and end - last.start <= BLOCK_BYTES:
            last.shown |= shown
            last.end = end
            self.size += size
        else:
            self._add(Part(b"", block.step, block.path, block.start, end, shown), size)

    def _add(self, part: Part, size: int) -> None:
        self._parts.append(part)
        self._offsets.append(self.size)
        self.size += size


class JobLogs:
    """The texts of the jobs that were asked for."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._logs: dict[str, JobLog] = {}
        self._lock = threading.Lock()

    def begin(self, job: str) -> bool:
        """Have a job's text; return whether nobody had asked for it before. Raises `NotFound`."""
        return self._have(job)[1]

    def get(self, job: str) -> tuple[JobLog, int]:
        """Return a job's text with its size now, complete where the job has ended; raises `NotFound`."""
        log, _ = self._have(job)
        return log, log.advance()

    def _have(self, job: str) -> tuple[JobLog, bool]:
        with self._lock:
            try:
                handle = self._workspace.jobs.get(job)
            except NotFound:
                self._logs.pop(job, None)
                raise
            log = self._logs.pop(job, None)
            is_new = log is None
            if log is None or not log.is_whole():
                log = JobLog(handle.follower())
            self._logs[job] = log  # the last of them now
            for oldest in list(self._logs)[:-JOBS_AT_ONCE]:
                del self._logs[oldest]
            return log, is_new


class Lines:
    """Turns events into lines; of progress, one every few seconds and the last one of each phase."""

    def __init__(self) -> None:
        self._last_shown_s: dict[str, float] = {}

    def of(self, event: Event) -> str | None:
        """Return the line of an event, or None."""
        if event.kind == "progress":
            return self._progress(event)
        return event_line(event)

    def _progress(self, event: Event) -> str | None:
        name = f"{event.name}: {event.numbers.get('phase')}"
        is_due = time.monotonic() - self._last_shown_s.get(name, 0.0) >= PROGRESS_S
        if not is_due and not _is_last_of_phase(event):
            return None
        self._last_shown_s[name] = time.monotonic()
        return event_line(event)


def event_line(event: Event) -> str:
    """Return an event as a line."""
    if event.kind == "line":
        return f"{event.name}: {event.text}"
    if event.kind == "progress":
        numbers = dict(event.numbers)
        phase, done, total, eta_s = (numbers.pop(key, None) for key in ("phase", "done", "total", "eta_s"))
        return progress_text(f"{event.name}: {phase}", int(done or 0), int(total or 0), eta_s, numbers)
    took = f" in {event.numbers['seconds']:g} s" if event.numbers.get("seconds") is not None else ""
    text = "" if event.status == "completed" else event.text.removeprefix(event.status).lstrip(": ")
    return f"{event.kind} {event.name} {event.status}{took}" + (f": {text}" if text else "")


def _is_last_of_phase(event: Event) -> bool:
    return bool(event.numbers.get("done") == event.numbers.get("total"))


def _block_text(step: str, start: int, body: bytes, shown: set[int]) -> bytes:
    """Return a block of a step's log as it stands in the text: each line behind the step's name."""
    prefix = f"{step}: ".encode()
    if body.isascii() and _PROGRESS not in body and not _OTHER_LINE_ENDS.search(body) and _has_no_long_line(body):
        end = b"" if body.endswith(b"\n") else b"\n"
        return prefix + body[:-1].replace(b"\n", b"\n" + prefix) + body[-1:] + end
    lines = []
    for at, text in lines_of(body):
        event = log_event(step, text)
        if event.kind != "progress" or _is_last_of_phase(event) or start + at in shown:
            lines.append(event_line(event) + "\n")
    return "".join(lines).encode(errors="replace")


def _has_no_long_line(body: bytes) -> bool:
    return all(len(line) <= LINE_BYTES for line in body.split(b"\n"))
