"""Data files to raw rows, streamed one at a time: jsonl, json, csv, tsv, parquet, folders of them, and MLTable.

A row is named by its file and a number that an editor shows: the line of a jsonl file, else the row's number, from 1.
"""

import csv
import json
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mafunzo.errors import InvalidFile, NotSupported

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
KINDS = "jsonl, json, csv, tsv or parquet"
_CHUNK = 1 << 20
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

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
    """Files of one split, read one after the other."""

    files: tuple[Path, ...]

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
            for raw in _read(path, start, indices):
                count = raw.index - start + 1
                if indices is None or raw.index in indices:
                    yield raw
            start += count

    def count(self) -> int:
        """Return the number of rows; raises `InvalidFile` where there are none."""
        total = 0
        for path in self.files:
            if kind_of(path) == "parquet":
                total += int(_parquet(path).metadata.num_rows)
            else:
                total += sum(1 for _ in _read(path, 0, ()))
        if total == 0:
            raise InvalidFile(f"{self.name} has no rows.")
        return total


def open_source(path: Path) -> Source:
    """Return the source at `path`: a data file, a folder of data files, or an MLTable folder.

    Raises `InvalidFile` for a missing, empty or unknown file.
    """
    if not path.exists():
        raise InvalidFile(f"{path} doesn't exist. Check the path of the data file.")
    if path.name == "MLTable" or (path / "MLTable").exists():
        return Source(_mltable_files(path if path.is_file() else path / "MLTable"))
    if path.is_dir():
        files = tuple(file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES)
        if not files:
            raise InvalidFile(f"The folder {path} has no data file ({KINDS}).")
        return Source(files)
    if path.stat().st_size == 0:
        raise InvalidFile(f"{path.name} is empty.")
    kind_of(path)
    return Source((path,))


def kind_of(path: Path) -> str:
    """Return a file's format by its suffix, or by its first bytes if it has none."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix:
        raise InvalidFile(f"{path.name} has the suffix '{suffix}', expected {KINDS}. Convert it, or rename it.")
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    first_line = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]
    if first_line[:1] in (b"{", b"["):
        return "json"
    if b"\t" in first_line or b"," in first_line:
        return "tsv" if b"\t" in first_line else "csv"
    raise InvalidFile(f"{path.name} has no suffix and isn't recognised as {KINDS}. Give it the right suffix.")


def _read(path: Path, start: int, indices: Indices | None) -> Iterator[RawRow]:
    """Yield a file's rows, the first with the index `start`; those that aren't at `indices` without bodies, or not at all."""
    kind = kind_of(path)
    with path.open("rb") as file:
        if kind != "parquet" and file.read(2) in _UTF16_MARKS:
            raise InvalidFile(f"{path.name} is UTF-16. Save it as UTF-8.")
    return _READERS[kind](path, start, indices)


def _read_jsonl(path: Path, start: int, indices: Indices | None) -> Iterator[RawRow]:
    index = start
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            if number == 1 and line.lstrip()[:1] == b"[":
                yield from _read_array(path, start, indices)
                return
            body, fault = _parse_line(line) if indices is None or index in indices else (None, "")
            yield RawRow(path.name, number, index, body, fault)
            index += 1


def _read_json(path: Path, start: int, indices: Indices | None) -> Iterator[RawRow]:
    with path.open("rb") as file:
        head = next(filter(None, (line.removeprefix(b"\xef\xbb\xbf").strip() for line in file)), b"")
    if head[:1] == b"[":
        yield from _read_array(path, start, indices)
    elif _parse_line(head)[0] is not None:
        yield from _read_jsonl(path, start, indices)
    else:
        for index, body in enumerate(_document_rows(path), start=start):
            yield RawRow(
                path.name, index - start + 1, index, body if isinstance(body, dict) else None, _not_object(body)
            )


def _document_rows(path: Path) -> list[Any]:
    """Return the rows of a JSON file that is one object: `{"data": [rows]}`, or a single row."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
    except ValueError as error:
        raise InvalidFile(f"{path.name} isn't JSON: {_reason(error)}.") from error
    lists = [value for value in document.values() if isinstance(value, list)]
    if len(document) == 1 and lists and all(isinstance(row, dict) for row in lists[0]):
        is_row = any("role" in row or "from" in row for row in lists[0])
        return [document] if is_row else lists[0]
    return [document]


def _read_array(path: Path, start: int, indices: Indices | None) -> Iterator[RawRow]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    row = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_CHUNK)
            position = text.index("[") + 1
            while True:
                position, text = _skip(text, position, file)
                if text[position : position + 1] in ("]", ""):
                    break
                value, position, text = _decode(decoder, text, position, file)
                row += 1
                yield RawRow(
                    path.name, row, start + row - 1, value if isinstance(value, dict) else None, _not_object(value)
                )
            if not text[position : position + 1]:
                raise InvalidFile(f"{path.name} ends after row {row} without ']': it was cut off.")
    except ValueError as error:
        raise InvalidFile(
            f"{path.name}, row {row + 1}: {_reason(error)}. The rows after it can't be told apart; correct it, or write "
            "one object a line (jsonl), where a bad row is skipped by itself."
        ) from error


def _skip(text: str, position: int, file: Any) -> tuple[int, str]:
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position < len(text):
            return position, text
        text, position = file.read(_CHUNK), 0
        if not text:
            return 0, ""


def _decode(decoder: json.JSONDecoder, text: str, position: int, file: Any) -> tuple[Any, int, str]:
    size = _CHUNK
    while True:
        try:
            value, end = decoder.raw_decode(text, position)
            return value, end, text
        except json.JSONDecodeError:
            more = file.read(size)
            if not more:
                raise
            text, position, size = text[position:] + more, 0, size * 2


def _read_delimited(path: Path, start: int, _indices: Indices | None, delimiter: str) -> Iterator[RawRow]:
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            columns = _columns(next(reader, []), path)
            for row, cells in enumerate(filter(None, reader), 1):
                if len(cells) != len(columns):
                    fault = f"has {len(cells)} cells, expected {len(columns)} as in the first line"
                    yield RawRow(path.name, row, start + row - 1, None, fault)
                    continue
                body = {name: cell for name, cell in zip(columns, cells, strict=True) if name}
                yield RawRow(path.name, row, start + row - 1, body)
    except csv.Error as error:
        raise InvalidFile(
            f"{path.name}, line {reader.line_num}: {error}. Check the quotes around its cells."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path.name} {_reason(error)}.") from error


def _read_parquet(path: Path, start: int, indices: Indices | None) -> Iterator[RawRow]:
    file = _parquet(path)
    columns = _columns(file.schema_arrow.names, path)
    index = start
    for batch in file.iter_batches(batch_size=256):
        rows = range(index, index + batch.num_rows)
        index += batch.num_rows
        if indices is not None and not any(i in indices for i in rows):
            yield RawRow(path.name, rows[-1] - start + 1, rows[-1], None)
            continue
        for i, values in zip(rows, batch.to_pylist(), strict=True):
            body = {name: _without_nulls(value) for name, value in zip(columns, values.values(), strict=True)}
            yield RawRow(
                path.name, i - start + 1, i, {name: value for name, value in body.items() if value is not None}
            )


def _parquet(path: Path) -> Any:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path, memory_map=True)
    except (ArrowException, OSError) as error:
        raise InvalidFile(f"{path.name} isn't a parquet file that can be read: {error}") from error


_READERS: dict[str, Callable[[Path, int, Indices | None], Iterator[RawRow]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": partial(_read_delimited, delimiter=","),
    "tsv": partial(_read_delimited, delimiter="\t"),
    "parquet": _read_parquet,
}


def _mltable_files(path: Path) -> tuple[Path, ...]:
    """Return the files that an MLTable names under `paths`; its transformations must be readers only."""
    import yaml

    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{path} isn't YAML: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("paths"), list):
        raise InvalidFile(f"{path} names no files: 'paths' must be a list such as `- file: ./train.jsonl`.")
    _refuse_transformations(body.get("transformations") or [], path)
    files = [file for entry in body["paths"] for file in _mltable_entry(entry, path)]
    if not files:
        raise InvalidFile(f"{path} names no data file ({KINDS}).")
    return tuple(files)


def _refuse_transformations(transformations: Sequence[Any], path: Path) -> None:
    readers = {"read_json_lines", "read_delimited", "read_parquet"}
    names = [next(iter(entry)) if isinstance(entry, dict) and entry else str(entry) for entry in transformations]
    unsupported = sorted({str(name) for name in names} - readers)
    if unsupported:
        raise NotSupported(
            f"{path} has the transformations {', '.join(unsupported)}, which aren't applied here. Apply them once and name "
            f"the resulting file instead; {', '.join(sorted(readers))} are understood."
        )


def _mltable_entry(entry: Any, path: Path) -> list[Path]:
    if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in ("file", "folder", "pattern"):
        raise InvalidFile(f"{path}: the path {entry!r} isn't understood, expected file, folder or pattern.")
    kind, text = next(iter(entry.items()))
    text = str(text)
    if "://" in text and not text.startswith("file://"):
        raise NotSupported(f"{path} names {text}, which isn't on this machine. Download it and name the file.")
    text = text.removeprefix("file://")
    if kind == "pattern":
        root = Path("/") if text.startswith("/") else path.parent
        matches = sorted(item for item in root.glob(text.removeprefix("./").lstrip("/")) if item.is_file())
        if not matches:
            raise InvalidFile(f"{path}: no file matches {text}.")
        return [file for item in matches for file in open_source(item).files]
    return list(open_source(path.parent / text).files)


def _parse_line(line: bytes) -> tuple[dict[str, Any] | None, str]:
    try:
        value = json.loads(line.decode("utf-8").rstrip(), object_pairs_hook=_unique_keys)
    except ValueError as error:
        return None, _reason(error)
    return (value, "") if isinstance(value, dict) else (None, _not_object(value))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key '{twice}' twice")
    return body


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"isn't JSON: {error.msg} (line {error.lineno}, column {error.colno})".replace("(line 1, ", "(")
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"isn't UTF-8: byte 0x{byte:02x} at position {error.start}. Save the file as UTF-8"
    return str(error)


def _not_object(value: Any) -> str:
    names = {
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return "" if isinstance(value, dict) else f"is {names.get(type(value), 'no object')}, expected an object"


def _columns(names: Sequence[str], path: Path) -> list[str]:
    columns = [name.strip() for name in names]
    if not any(columns):
        raise InvalidFile(f"{path.name} has no column names in its first line.")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise InvalidFile(f"{path.name} has the column {', '.join(twice)} twice. Rename or remove one of them.")
    return columns


def _without_nulls(value: Any) -> Any:
    """Return a parquet value without the nulls that stand for missing keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
