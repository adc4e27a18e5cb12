"""Experiment tracking: a step's metrics (`metrics.jsonl`, the source of truth) and its progress.

It stays light, because every step imports it; MLflow's view of the metrics is one of the entrypoints.
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

STEP_FOLDER = "MAFUNZO_STEP_FOLDER"
"""The environment variable that names a process's folder; child processes inherit it."""


class MetricLog:
    """Appends metrics to `metrics.jsonl`, one JSON object a line: `{"time": epoch seconds, "step": n, <name>: value}`."""

    def __init__(self, path: Path | None) -> None:
        """`path` None writes nothing: a component run by hand without a step folder."""
        self._file: TextIO | None = path.open("a", encoding="utf-8", buffering=1) if path else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line. NaN and infinities become null."""
        if self._file is None:
            return
        finite = {
            name: value if abs(value) != float("inf") and value == value else None for name, value in metrics.items()
        }
        self._file.write(json.dumps({"time": round(time.time(), 3), "step": step, **finite}) + "\n")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a `metrics.jsonl`; an unfinished last line and malformed ones are skipped."""
    if not path.exists():
        return
    with path.open("rb") as file:
        yield from filter(None, map(metrics_of, file))


def metrics_of(line: bytes) -> dict[str, Any] | None:
    """Parse a whole line of a `metrics.jsonl`; None if malformed, since programs of users write there too.

    A value that is no finite number is None; `time` and `step`, where they are missing, are 0.
    """
    try:
        body = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    values = {name: value if _is_finite(value) else None for name, value in body.items()}
    return values | {name: values.get(name) or 0 for name in ("time", "step")}


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


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

    def update(self, done: int, **more: float) -> None:
        """Report `done` of `total`; `more` are current numbers to show (`loss`, `tokens_per_s`)."""
        now = time.monotonic()
        if now - self._last_update_s < self._every_s and done < self.total:
            return
        self._last_update_s = now
        elapsed_s = now - self._start_s
        eta_s = elapsed_s / done * (self.total - done) if done else None
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
