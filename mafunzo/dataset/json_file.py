"""JSON to rows, streamed: an object a line (jsonl), one array of objects, or one object."""

import json
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from mafunzo.dataset.compression import open_bytes
from mafunzo.dataset.reading import UTF8, Reading, Record, Selection, decoding_fault
from mafunzo.errors import InvalidFile

_CHUNK = 1 << 20
_MARK = b"\xef\xbb\xbf"


def read_jsonl(path: Path, reading: Reading, selection: Selection) -> Iterator[Record]:
    """Yield a record for each line that isn't blank; those that `selection` leaves out without their bodies."""
    index = 0
    for number, line in enumerate(_lines(path, reading.encoding), start=1):
        line = line.removeprefix(_MARK) if number == 1 else line
        if not line.strip():
            continue
        if number == 1 and line.lstrip()[:1] == b"[":
            yield from _read_array(path, reading)
            return
        yield Record(number, *_parse_line(line)) if selection(index) else Record(number, None)
        index += 1


def read_json(path: Path, reading: Reading, selection: Selection) -> Iterator[Record]:
    """Yield the rows of a JSON file of any of the three forms."""
    lines = _lines(path, reading.encoding)
    head = next(filter(None, (line.removeprefix(_MARK).strip() for line in lines)), b"")
    if head[:1] == b"[":
        yield from _read_array(path, reading)
    elif _parse_line(head)[0] is not None:
        yield from read_jsonl(path, reading, selection)
    else:
        for number, body in enumerate(_document_rows(path, reading), start=1):
            yield _record(number, body)


def _lines(path: Path, encoding: str) -> Iterator[bytes]:
    """Yield the lines in UTF-8: of a file that should be, as they are, so that a broken byte spoils one row."""
    with open_bytes(path) as file:
        if encoding == UTF8:
            yield from file
            return
        try:
            for line in TextIOWrapper(file, encoding=encoding, newline="\n"):
                yield line.encode(UTF8)
        except UnicodeDecodeError as error:
            raise InvalidFile(f"{path.name} {decoding_fault(error, encoding)}.") from error


def _open_text(path: Path, reading: Reading) -> TextIOWrapper:
    encoding = "utf-8-sig" if reading.encoding == UTF8 else reading.encoding
    return TextIOWrapper(open_bytes(path), encoding=encoding)


def _document_rows(path: Path, reading: Reading) -> list[Any]:
    """Return the rows of a JSON file that is one object: `{"data": [rows]}`, or a single row."""
    try:
        with _open_text(path, reading) as file:
            document = json.loads(file.read(), object_pairs_hook=_unique_keys)
    except ValueError as error:
        raise InvalidFile(f"{path.name} isn't JSON: {_reason(error)}.") from error
    lists = [value for value in document.values() if isinstance(value, list)]
    if len(document) == 1 and lists and all(isinstance(row, dict) for row in lists[0]):
        is_row = any("role" in row or "from" in row for row in lists[0])
        return [document] if is_row else lists[0]
    return [document]


def _read_array(path: Path, reading: Reading) -> Iterator[Record]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    row = 0
    try:
        with _open_text(path, reading) as file:
            text = file.read(_CHUNK)
            position = text.index("[") + 1
            while True:
                position, text = _skip(text, position, file)
                if text[position : position + 1] in ("]", ""):
                    break
                value, position, text = _decode(decoder, text, position, file)
                row += 1
                yield _record(row, value)
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


def _record(number: int, value: Any) -> Record:
    return Record(number, value) if isinstance(value, dict) else Record(number, None, _not_object(value))


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
    return decoding_fault(error) if isinstance(error, UnicodeDecodeError) else str(error)


def _not_object(value: Any) -> str:
    names = {
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return f"is {names.get(type(value), 'no object')}, expected an object"
