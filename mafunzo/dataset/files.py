"""Data files to raw rows, streamed one at a time: of every kind, compressed or not, folders of them, and MLTable.

A row is named by its file and a number that an editor shows: the line of a jsonl file, else the row's number, from 1.
"""

import logging
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mafunzo.dataset.columnar import count_arrow, count_parquet, read_arrow, read_parquet
from mafunzo.dataset.compression import COMPRESSED, open_bytes, plain_name
from mafunzo.dataset.delimited import first_columns, read_delimited, shown_delimiter
from mafunzo.dataset.json_file import read_json, read_jsonl
from mafunzo.dataset.mltable import FILE_NAME, files_of, read_mltable
from mafunzo.dataset.reading import UTF8, Reading, Record, Selection, encoding_of
from mafunzo.dataset.saved_dataset import is_about_data, saved_splits
from mafunzo.errors import InvalidFile, NotSupported

logger = logging.getLogger(__name__)

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
KINDS = f"jsonl, ndjson, json, csv, tsv, parquet or arrow, each also compressed ({', '.join(COMPRESSED)})"
SHOWN_FILES = 10
HEAD_BYTES = 4096
_ADVICE = {
    ".zip": "Unpack it, and name the file or folder that was in it",
    ".tar": "Unpack it, and name the file or folder that was in it",
    ".xlsx": "Save the sheet as 'CSV UTF-8'",
    ".xls": "Save the sheet as 'CSV UTF-8'",
}

Indices = Container[int]


@dataclass(frozen=True)
class RawRow:
    """One row of a file: its `body`, or the `fault` for which it can't be read.

    index: counts the rows of a source from 0; row: how the user finds it in `file`.
    """

    file: str
    row: int
    index: int
    body: dict[str, Any] | None
    fault: str = ""


@dataclass(frozen=True)
class Source:
    """Files of one split, read one after the other. reading: what an MLTable says of them."""

    files: tuple[Path, ...]
    reading: Reading = field(default_factory=Reading)

    @property
    def name(self) -> str:
        return ", ".join(path.name for path in self.files)

    def rows(self, indices: Indices | None = None) -> Iterator[RawRow]:
        """Yield the rows, or those at `indices`: the others aren't parsed.

        Raises `InvalidFile` where a file as a whole can't be read.
        """
        start = 0
        for path in self.files:
            count = 0
            for count, record in enumerate(self._records(path, start, indices, indices is None), 1):
                index = start + count - 1
                if indices is None or index in indices:
                    yield RawRow(path.name, record.number, index, record.body, record.fault)
            start += count

    def count(self) -> int:
        """Return the number of rows; raises `InvalidFile` where there are none."""
        total = 0
        for path in self.files:
            count = _COUNTERS.get(self._kind(path))
            total += count(path) if count else sum(1 for _ in self._records(path, 0, (), is_told=True))
        if total == 0:
            raise InvalidFile(f"{self.name} has no rows.")
        return total

    def _kind(self, path: Path) -> str:
        return self.reading.kind or kind_of(path)

    def _records(self, path: Path, start: int, indices: Indices | None, is_told: bool) -> Iterator[Record]:
        """Yield a file's rows, the first with the index `start`; those that aren't at `indices` may lack their bodies.

        is_told: whether lines that are dropped are logged.
        """
        kind = self._kind(path)
        reading = self.reading if kind in _COUNTERS else _decoded(path, self.reading)

        def selection(row: int) -> bool:
            return indices is None or start + row in indices

        if kind in _DEFAULT_DELIMITERS:
            is_bare = self.reading.header == "first" and path != self.files[0]
            columns = first_columns(self.files[0], _decoded(self.files[0], self.reading)) if is_bare else ()
            return read_delimited(path, reading, _DEFAULT_DELIMITERS[kind], columns)
        if reading.invalid_lines == "drop":
            records = _READERS[kind](path, reading, lambda _: True)
            return _without_invalid(path, records, is_told)
        return _READERS[kind](path, reading, selection)


def open_source(path: Path) -> Source:
    """Return the source at `path`: a data file, a folder of data files or a saved data set, or an MLTable folder.

    Raises `InvalidFile` for a missing, empty or unknown file.
    """
    if not path.exists():
        raise InvalidFile(f"{path} doesn't exist. Check the path of the data file.")
    if path.name == FILE_NAME or (path / FILE_NAME).exists():
        return _open_mltable(path if path.is_file() else path / FILE_NAME)
    if path.is_dir():
        return Source(_folder_files(path))
    return Source((_checked(path, Reading()),))


def kind_of(path: Path) -> str:
    """Return a file's format by its suffix, or by its first bytes if it has none, or `.txt`.

    Excel's "Unicode text" is a `.txt` whose cells have tabs between them; where there is none, it may be prose with commas.
    """
    suffix = plain_name(path).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix and suffix != ".txt":
        advice = _ADVICE.get(suffix, "Convert it, or rename it")
        raise InvalidFile(f"{path.name} has the suffix '{suffix}', expected {KINDS}. {advice}.")
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    first_line = head.decode(encoding_of(head), "replace").lstrip("\ufeff \t\r\n").split("\n", 1)[0]
    is_json, delimiter = first_line[:1] in ("{", "["), shown_delimiter(first_line)
    if suffix == ".txt":
        if delimiter == "\t" and not is_json:
            return "tsv"
        raise InvalidFile(
            f"{path.name} has the suffix '.txt', expected {KINDS}. A table whose cells have tabs between them is "
            "read (Excel's Unicode text). Rename what is of another of these kinds."
        )
    if is_json:
        return "json"
    if delimiter:
        return "csv"
    raise InvalidFile(f"{path.name} has no suffix and isn't recognised as {KINDS}. Give it the right suffix.")


def is_data_file(file: Path, folder: Path) -> bool:
    """Return whether a file below `folder` holds rows, by its name: what is hidden, or tells of data, doesn't."""
    return (
        plain_name(file).suffix.lower() in SUFFIXES
        and not _is_hidden(file.relative_to(folder))
        and not is_about_data(file)
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


def _folder_files(folder: Path) -> tuple[Path, ...]:
    """Return the data files of a folder, and name those that aren't read."""
    if (folder / "_delta_log").is_dir():
        raise NotSupported(f"{folder} is a Delta Lake table, some of whose files are of the past. Write it as parquet.")
    splits = saved_splits(folder)
    if len(splits) > 1:
        raise InvalidFile(
            f"{folder} holds the splits {', '.join(splits)}. Name one of them: {folder / next(iter(splits))}"
        )
    if splits:
        return next(iter(splits.values()))
    visible = [
        file for file in sorted(folder.rglob("*")) if file.is_file() and not _is_hidden(file.relative_to(folder))
    ]
    files = tuple(file for file in visible if is_data_file(file, folder))
    unread = [str(file.relative_to(folder)) for file in visible if file not in files]
    if not files:
        others = f" It has {_listed(unread)}." if unread else ""
        raise InvalidFile(f"The folder {folder} has no data file ({KINDS}).{others}")
    if unread:
        logger.warning("%s: not read, since they are no data files: %s", folder, _listed(unread))
    return files


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_FILES
    return ", ".join(names[:SHOWN_FILES]) + (f" and {more} more" if more > 0 else "")


def _open_mltable(table: Path) -> Source:
    """Return the files that an MLTable names under `paths`, read as its transformation says."""
    body = read_mltable(table)
    files = [
        file
        for place in body.places
        for path in files_of(place, table)
        for file in (_folder_files(path) if path.is_dir() else (_checked(path, body.reading),))
    ]
    if not files:
        raise InvalidFile(f"{table} names no data file ({KINDS}).")
    return Source(tuple(files), body.reading)


def _checked(path: Path, reading: Reading) -> Path:
    """Return the path of a file that is there, isn't empty, and is of a known kind."""
    if not path.exists():
        raise InvalidFile(f"{path} doesn't exist. Check the path of the data file.")
    if path.stat().st_size == 0:
        raise InvalidFile(f"{path.name} is empty.")
    if not reading.kind:
        kind_of(path)
    return path


def _without_invalid(path: Path, records: Iterator[Record], is_told: bool) -> Iterator[Record]:
    """Yield the rows that can be read; the others are counted in the log."""
    dropped = []
    for record in records:
        if record.fault:
            dropped.append(str(record.number))
        else:
            yield record
    if dropped and is_told:
        template = "%s: lines that can't be read are left out, as the MLTable says (invalid_lines: drop): %s"
        logger.warning(template, path.name, _listed(dropped))


def _decoded(path: Path, reading: Reading) -> Reading:
    """Return how a text is read: by the encoding that its first bytes say, unless an MLTable names another than UTF-8."""
    if reading.encoding != UTF8:
        return reading
    with open_bytes(path) as file:
        return replace(reading, encoding=encoding_of(file.read(4)))


_READERS: dict[str, Callable[[Path, Reading, Selection], Iterator[Record]]] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
_DEFAULT_DELIMITERS = {"csv": ",", "tsv": "\t"}
_COUNTERS = {"parquet": count_parquet, "arrow": count_arrow}
