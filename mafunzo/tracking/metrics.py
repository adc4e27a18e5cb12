"""Experiment tracking: a step's metrics. Its `metrics.jsonl` is the truth; MLflow's view of it is one of the entrypoints."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from mafunzo.tracking.regular_file import is_regular, open_regular


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
    if not is_regular(path):
        return
    with open_regular(path) as file:
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
