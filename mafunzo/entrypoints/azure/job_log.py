"""A job's log so far, as an append-only text: what the Azure SDK's `jobs.stream` shows."""

import threading
import time
from pathlib import Path

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.stream import Event
from mafunzo.errors import NotFound
from mafunzo.tracking.progress import progress_text

PROGRESS_S = 5.0
"""The least interval between two progress lines of one phase."""


class JobLogs:
    """Follows each requested job, once, and writes `<home>/jobs/<job>/stream.txt`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._followed: dict[str, threading.Thread] = {}
        self._starting = threading.Lock()

    def begin(self, job: str) -> bool:
        """Follow a job; return whether it wasn't followed before. Raises `NotFound`."""
        self._workspace.jobs.get(job)
        with self._starting:
            if job in self._followed:
                return False
            self._file(job).unlink(missing_ok=True)  # of a server before this one, which may have broken off
            self._followed[job] = threading.Thread(target=self._follow, args=(job,), daemon=True, name=f"log of {job}")
            self._followed[job].start()
            return True

    def text(self, job: str) -> str:
        """Return a job's log so far, complete where the job has ended; raises `NotFound`."""
        status = self._workspace.jobs.get(job).status
        self.begin(job)
        if status.is_terminal:
            self._followed[job].join()
        file = self._file(job)
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def _file(self, job: str) -> Path:
        return self._workspace.home.jobs / job / "stream.txt"

    def _follow(self, job: str) -> None:
        self._file(job).parent.mkdir(mode=0o700, exist_ok=True)
        lines = Lines()
        try:
            with self._file(job).open("a", encoding="utf-8") as file:
                for event in self._workspace.jobs.get(job).events(is_server=True):
                    line = lines.of(event)
                    if line is not None:
                        file.write(line + "\n")
                        file.flush()
        except NotFound:  # it was deleted meanwhile
            self._file(job).unlink(missing_ok=True)


class Lines:
    """Turns events into lines; of progress, one every few seconds and the last one of each phase."""

    def __init__(self) -> None:
        self._last_shown_s: dict[str, float] = {}

    def of(self, event: Event) -> str | None:
        """Return the line of an event, or None."""
        if event.kind == "progress":
            return self._progress(event)
        if event.kind == "line":
            return f"{event.name}: {event.text}"
        took = f" in {event.numbers['seconds']:g} s" if event.numbers.get("seconds") is not None else ""
        text = "" if event.status == "completed" else event.text.removeprefix(event.status).lstrip(": ")
        return f"{event.kind} {event.name} {event.status}{took}" + (f": {text}" if text else "")

    def _progress(self, event: Event) -> str | None:
        numbers = dict(event.numbers)
        phase, done, total, eta_s = (numbers.pop(key, None) for key in ("phase", "done", "total", "eta_s"))
        name = f"{event.name}: {phase}"
        is_due = time.monotonic() - self._last_shown_s.get(name, 0.0) >= PROGRESS_S
        if not is_due and done != total:
            return None
        self._last_shown_s[name] = time.monotonic()
        return progress_text(name, int(done or 0), int(total or 0), eta_s, numbers)
