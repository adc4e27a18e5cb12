"""The progress of a step: a line for people, or JSON lines that the server reads."""

import json
import sys
import time
from collections.abc import Mapping
from typing import TextIO


class Progress:
    """Reports the progress of a phase, on a terminal as one line that is rewritten, elsewhere as JSON lines.

    A JSON line is `{"event": "progress", "phase": ..., "done": n, "total": n, "eta_s": s, <more>}`, at most one every
    `every_s` seconds, plus the first and the last of the phase.
    """

    def __init__(self, phase: str, total: int, every_s: float = 1.0, stream: TextIO | None = None) -> None:
        self.phase, self.total, self._every_s = phase, total, every_s
        self._stream = stream or sys.stdout
        self._start_s = time.monotonic()
        self._last_update_s = float("-inf")

    def update(self, done: int, eta_s: float | None = None, **more: float) -> None:
        """Report `done` of `total`; `more` are current numbers to show (`loss`, `tokens_per_s`).

        eta_s: how long the rest takes, where the caller knows better than by the time that `done` took.
        """
        now = time.monotonic()
        if now - self._last_update_s < self._every_s and done < self.total:
            return
        self._last_update_s = now
        if eta_s is None and done:
            eta_s = (now - self._start_s) / done * (self.total - done)
        if self._stream.isatty():
            end = "\n" if done >= self.total else ""
            self._stream.write("\r\x1b[2K" + progress_text(self.phase, done, self.total, eta_s, more) + end)
        else:
            numbers = {name: round(value, 6) for name, value in more.items()}
            eta = None if eta_s is None else round(eta_s, 1)
            event = {
                "event": "progress",
                "phase": self.phase,
                "done": done,
                "total": self.total,
                "eta_s": eta,
                **numbers,
            }
            self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()


def progress_text(phase: str, done: int, total: int, eta_s: float | None, more: Mapping[str, float]) -> str:
    """Return one readable line: `train 12/60 [####......] loss 2.31 tokens_per_s 512 ETA 1:23`."""
    share = done / total if total else 1.0
    bar = "#" * int(20 * share) + "." * (20 - int(20 * share))
    numbers = "".join(f" {name} {value:.4g}" for name, value in more.items())
    eta = "" if eta_s is None else f" ETA {int(eta_s) // 60}:{int(eta_s) % 60:02d}"
    return f"{phase} {done}/{total} [{bar}]{numbers}{eta}"
