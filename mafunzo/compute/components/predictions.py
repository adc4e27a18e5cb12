"""The predictions of a batch: written in segments, gone on with after a kill, and put together at the end.

<output>/checkpoint-N/      predictions.jsonl and manifest.json: what was answered since the segment before, N rows in all
<output>/predictions.jsonl  every row once, in the order of the data, when the last is done; or under another name
<output>/report.json        what became of the rows, and of which request they are

A segment is written elsewhere and renamed into its place, so that a process that is killed at any moment leaves whole segments
only. Whoever goes on reads in them which rows are done, those of earlier attempts included, and asks the others: no row is in
two segments. As no segment changes, whatever keeps checkpoints (a mirror of another machine, `job resume`) keeps them as well.
The pause between two segments grows with the time that the run has taken, so that a kill costs little of it, and there are few.
"""

import csv
import heapq
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from mafunzo.entities.parameters.score import REPORT_FILE
from mafunzo.errors import Conflict
from mafunzo.tracking.atomic_json import sync_folder, write_json

logger = logging.getLogger(__name__)

PREDICTIONS, MANIFEST = "predictions.jsonl", "manifest.json"
REPORT = REPORT_FILE
COLUMNS = ("file", "row", "answer", "tool_calls", "finish_reason", "prompt_tokens", "completion_tokens", "error")
LOST_SHARE = 0.02
"""At most this share of the time that a run has taken lies between two segments, or the interval where that is more."""
_DRAFT = ".segment"

Line = Mapping[str, Any]


class Predictions:
    """What is done of a batch. A line is a JSON object whose `index` counts the rows of the data from 0.

    key: what the lines follow from; segments of another request count for nothing. earlier: the output folders of earlier
    attempts, which are read only. interval_s: the least time between two segments. Raises `Conflict` where `output` holds
    another request's.
    """

    def __init__(
        self,
        output: Path,
        earlier: Sequence[Path],
        key: str,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output, self._key, self._interval_s, self._clock = output, key, interval_s, clock
        output.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(output / _DRAFT, ignore_errors=True)
        self._start_s = self._written_s = clock()
        self._lines: list[Line] = []
        self._require_same(output / REPORT)
        self._segments = [
            segment for folder in (output, *earlier) for segment in self._usable(folder, folder == output)
        ]
        self.done = {int(line["index"]) for line in self.lines()}

    @property
    def is_whole(self) -> bool:
        """Whether an earlier run has put the predictions together already."""
        return (self._output / REPORT).exists()

    def add(self, line: Line) -> None:
        """Take in a row that is done; a segment is written when it is time."""
        self._lines.append(line)
        self.done.add(line["index"])
        now_s = self._clock()
        if now_s - self._written_s >= max(self._interval_s, LOST_SHARE * (now_s - self._start_s)):
            self.save()

    def save(self) -> None:
        """Write what isn't written yet as a segment."""
        self._written_s = self._clock()
        if not self._lines:
            return
        draft, segment = self._output / _DRAFT, self._output / f"checkpoint-{len(self.done)}"
        draft.mkdir()
        with (draft / PREDICTIONS).open("w", encoding="utf-8") as file:
            for line in sorted(self._lines, key=_index):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        write_json(draft / MANIFEST, {"key": self._key, "rows": len(self._lines)}, is_durable=True)
        draft.rename(segment)
        sync_folder(self._output)
        self._segments.append(segment)
        self._lines = []

    def lines(self) -> Iterator[Line]:
        """Yield what is written, in the order of the data."""
        last = -1
        for line in heapq.merge(*(_read(segment / PREDICTIONS) for segment in self._segments), key=_index):
            if line["index"] != last:  # what was carried over from an earlier attempt may lie in two folders
                last = line["index"]
                yield line

    def put_together(self, file_name: str, report: Mapping[str, Any]) -> None:
        """Write all lines in the order of the data, as a table into a `.csv`; then the report. Drop the segments."""
        self.save()
        draft = self._output / f".{file_name}"
        with draft.open("w", encoding="utf-8", newline="") as file:
            (_write_table if file_name.endswith(".csv") else _write_lines)(file, self.lines())
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._output / file_name)
        body = {**report, "file": file_name, "request": self._key}
        write_json(self._output / REPORT, body, indent=1, is_durable=True)
        self.drop_segments()

    def drop_segments(self) -> None:
        """Delete the segments in the output; those of earlier attempts go with their folders."""
        for segment in self._output.glob("checkpoint-*"):
            shutil.rmtree(segment)

    def _usable(self, folder: Path, is_own: bool) -> list[Path]:
        """Return the segments of this request in a folder."""
        segments = []
        for manifest in sorted(folder.glob(f"checkpoint-*/{MANIFEST}")):
            if is_own:
                self._require_same(manifest)
            if _key_of(manifest) == self._key:
                segments.append(manifest.parent)
            else:
                logger.warning("%s is of another request, and isn't gone on with", manifest.parent)
        return segments

    def _require_same(self, record: Path) -> None:
        if record.exists() and _key_of(record) != self._key:
            raise Conflict(
                f"{self._output} holds the predictions of another request: other rows, another model or other parameters. "
                "Name a new folder."
            )


def _write_lines(file: TextIO, lines: Iterable[Line]) -> None:
    for line in lines:
        shown = {name: value for name, value in line.items() if name != "index"}
        file.write(json.dumps(shown, ensure_ascii=False) + "\n")


def _write_table(file: TextIO, lines: Iterable[Line]) -> None:
    table = csv.DictWriter(file, COLUMNS)
    table.writeheader()
    for line in lines:
        calls = {"tool_calls": json.dumps(line["tool_calls"], ensure_ascii=False)} if "tool_calls" in line else {}
        flat = {**line, **line.get("usage", {}), **calls, "error": line.get("error", {}).get("message")}
        table.writerow({name: flat.get(name) for name in COLUMNS})


def _key_of(record: Path) -> str:
    body = json.loads(record.read_text(encoding="utf-8"))
    return str(body.get("key", body.get("request", "")))


def _read(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _index(line: Line) -> int:
    return int(line["index"])
