"""MLTable folders: the files that one names, and how it says they are read. What can't be honoured is refused by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mafunzo.dataset.reading import UTF8, Reading
from mafunzo.errors import Faults, InvalidFile, NotSupported

FILE_NAME = "MLTable"
_KEYS = ("$schema", "type", "paths", "transformations", "metadata", "traits", "name", "version", "description", "tags")
_KINDS = {"read_json_lines": "jsonl", "read_delimited": "csv", "read_parquet": "parquet"}
_ENCODINGS = {
    "utf8": UTF8,
    "utf8bom": UTF8,
    "iso88591": "iso8859-1",
    "latin1": "latin-1",
    "ascii": "ascii",
    "utf16": "utf-16",
    "windows1252": "cp1252",
}


class Place(NamedTuple):
    """An entry under `paths`: a file or folder, or a pattern of files in `root`."""

    path: Path
    pattern: str = ""


@dataclass(frozen=True)
class MLTable:
    """What an MLTable file says."""

    places: tuple[Place, ...]
    reading: Reading


def read_mltable(file: Path) -> MLTable:
    """Parse an MLTable file; raises `InvalidFile`, or `NotSupported` with all that isn't honoured."""
    import yaml

    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{file} isn't YAML: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("paths"), list):
        raise InvalidFile(f"{file} names no files: 'paths' must be a list such as `- file: ./train.jsonl`.")
    faults = Faults()
    faults.add(*(f"{key} isn't known, expected {', '.join(_KEYS)}." for key in body if key not in _KEYS))
    reading = _reading(body.get("transformations") or [], faults)
    places = tuple(_place(entry, file) for entry in body["paths"])
    faults.require_none(f"{file} asks for what isn't applied here.", NotSupported)
    return MLTable(places, reading)


def _reading(transformations: Any, faults: Faults) -> Reading:
    entries = [_transformation(entry) for entry in transformations] if isinstance(transformations, list) else []
    unsupported = sorted({name for name, _ in entries if name not in _KINDS})
    if unsupported or not isinstance(transformations, list):
        faults.add(
            f"the transformations {', '.join(unsupported) or repr(transformations)}, which aren't applied here. Apply them "
            f"once and name the resulting file instead; {', '.join(sorted(_KINDS))} are understood."
        )
    readers = [(name, options) for name, options in entries if name in _KINDS]
    if len(readers) > 1:
        faults.add(f"{' and '.join(name for name, _ in readers)} both say how the files are read. Keep one.")
    for name, options in readers[:1]:
        return _with_options(name, options, faults)
    return Reading()


def _transformation(entry: Any) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(entry, dict) or not entry:
        return str(entry), {}
    name, options = next(iter(entry.items()))
    return str(name), options if isinstance(options, dict) else {}


def _with_options(reader: str, options: Mapping[str, Any], faults: Faults) -> Reading:
    """Return how files are read; a fault for each option that isn't known, or whose value isn't honoured."""
    reading = Reading(kind=_KINDS[reader])
    known = {**_COMMON, **_OPTIONS[reader]}
    for name, value in options.items():
        if name not in known:
            faults.add(f"{reader} has the option {name}, which isn't known. Expected are {', '.join(known)}.")
            continue
        change = known[name](value)
        if isinstance(change, str):
            faults.add(f"{reader} has {name}: {value!r}; {change}")
        else:
            reading = replace(reading, **change)
    return reading


_Change = Mapping[str, Any] | str
"""What an option changes of a `Reading`, or why its value isn't honoured."""


def _encoding(value: Any) -> _Change:
    codec = _ENCODINGS.get(str(value).lower().replace("-", "").replace("_", ""))
    return {"encoding": codec} if codec else f"expected one of {', '.join(_ENCODINGS)}."


def _delimiter(value: Any) -> _Change:
    character = {"\\t": "\t"}.get(str(value), str(value))
    is_usable = isinstance(value, str) and len(character) == 1 and character not in '"\r\n'
    return {"delimiter": character} if is_usable else "expected one character, such as ';' or \"\\t\"."


def _header(value: Any) -> _Change:
    if value == "no_header":
        return "rows need names of columns, such as prompt and completion. Write them into the first line of each file."
    if value == "from_first_file":
        return {"header": "first"}
    is_each = value in ("all_files_same_headers", "all_files_different_headers")
    return {} if is_each else "expected all_files_same_headers, all_files_different_headers or from_first_file."


def _invalid_lines(value: Any) -> _Change:
    return {"invalid_lines": value} if value in ("error", "drop") else "expected error or drop."


def _boolean(change: Callable[[bool], Mapping[str, Any]]) -> Callable[[Any], _Change]:
    return lambda value: change(value) if isinstance(value, bool) else "expected true or false."


def _path_column(value: Any) -> _Change:
    return {} if value is False else "a column of paths would change no row. Leave it out."


def _anything(_value: Any) -> _Change:
    return {}


_COMMON: Mapping[str, Callable[[Any], _Change]] = {
    "include_path_column": _path_column,
    "path_column": _anything,  # the name of a column that there is none of
    "partition_size": _anything,  # how much is read at a time: rows are streamed
}
_OPTIONS: Mapping[str, Mapping[str, Callable[[Any], _Change]]] = {
    "read_json_lines": {"encoding": _encoding, "invalid_lines": _invalid_lines},
    "read_delimited": {
        "delimiter": _delimiter,
        "encoding": _encoding,
        "header": _header,
        "empty_as_string": _boolean(lambda value: {"empty_is_null": not value}),
        "support_multi_line": _boolean(lambda value: {"multi_line": value}),
        "infer_column_types": _boolean(lambda _: {}),  # what a chat model reads is text, which a cell is already
    },
    "read_parquet": {},
}


def _place(entry: Any, file: Path) -> Place:
    if not isinstance(entry, dict) or len(entry) != 1 or next(iter(entry)) not in ("file", "folder", "pattern"):
        raise InvalidFile(f"{file}: the path {entry!r} isn't understood, expected file, folder or pattern.")
    kind, text = next(iter(entry.items()))
    text = str(text)
    if "://" in text and not text.startswith("file://"):
        raise NotSupported(f"{file} names {text}, which isn't on this machine. Download it and name the file.")
    text = text.removeprefix("file://")
    if kind != "pattern":
        return Place(file.parent / text)
    root = Path("/") if text.startswith("/") else file.parent
    return Place(root, text.removeprefix("./").lstrip("/"))


def files_of(place: Place, table: Path) -> Sequence[Path]:
    """Return the files of a pattern, hidden ones aside; a file or folder as it is."""
    if not place.pattern:
        return [place.path]
    files = [
        file for file in sorted(place.path.glob(place.pattern)) if file.is_file() and not file.name.startswith(".")
    ]
    if not files:
        raise InvalidFile(f"{table}: no file matches {place.pattern}.")
    return files
