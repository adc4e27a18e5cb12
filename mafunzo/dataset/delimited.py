"""Tables of text to rows: cells with a delimiter between them, the names of the columns in the first line.

The delimiter is the one that the first line shows, since a spreadsheet writes `;` or a tab into its csv files where the
comma is the country's decimal point. A line `sep=;` before it, which Excel reads, says the same.
"""

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from itertools import chain
from pathlib import Path

from mafunzo.dataset.compression import open_bytes
from mafunzo.dataset.reading import UTF8, Reading, Record, decoding_fault
from mafunzo.errors import InvalidFile

DELIMITERS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<delimiter>[^\w"\r\n])"?\s*', re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def read_delimited(path: Path, reading: Reading, default: str = ",", columns: Sequence[str] = ()) -> Iterator[Record]:
    """Yield a record for each row that isn't blank (a spreadsheet writes `;;` for it).

    default: the delimiter where the first line has none. columns: their names, where the file doesn't begin with them.
    """
    csv.field_size_limit(sys.maxsize)
    delimiter = default
    try:
        with _open_text(path, reading) as file:
            lines, delimiter = _told_apart(file, reading, default)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            names = columns or column_names(next(reader, []), path)
            for number, cells in enumerate(filter(any, reader), 1):
                yield _record(number, cells, names, reading)
    except csv.Error as error:
        raise InvalidFile(
            f"{path.name}, line {lines.number}: {error}. Its cells are taken to have {_named(delimiter)} between them; check "
            "the quotes around them."
        ) from error
    except UnicodeDecodeError as error:
        advice = " (Excel: 'CSV UTF-8')" if reading.encoding.startswith("utf") else ""
        raise InvalidFile(f"{path.name} {decoding_fault(error, reading.encoding)}{advice}.") from error


def first_columns(path: Path, reading: Reading) -> list[str]:
    """Return the names of the columns in the first line of a file."""
    with _open_text(path, reading) as file:
        lines, delimiter = _told_apart(file, reading, DELIMITERS[0])
        return column_names(next(csv.reader(lines, delimiter=delimiter), []), path)


def shown_delimiter(first_line: str) -> str:
    """Return the delimiter that a line shows most often outside of quotes, or an empty text where it shows none."""
    bare = _QUOTED.sub("", first_line)
    separator = _SEPARATOR_LINE.fullmatch(first_line)
    best = max(DELIMITERS, key=bare.count)
    return separator["delimiter"] if separator else (best if best in bare else "")


def column_names(names: Sequence[str], path: Path) -> list[str]:
    """Return names of columns without the space around them; raises `InvalidFile` for none, and for one twice."""
    columns = [name.strip() for name in names]
    if not any(columns):
        raise InvalidFile(f"{path.name} has no column names in its first line.")
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise InvalidFile(f"{path.name} has the column {', '.join(twice)} twice. Rename or remove one of them.")
    return columns


def _open_text(path: Path, reading: Reading) -> TextIOWrapper:
    encoding = "utf-8-sig" if reading.encoding == UTF8 else reading.encoding
    return TextIOWrapper(open_bytes(path), encoding=encoding, newline="")


class _Lines:
    """The lines of a file from `first_line` on, which was read already; number: of the one that was taken last."""

    def __init__(self, file: TextIOWrapper, first_line: str, number: int) -> None:
        self._lines = chain([first_line], file)
        self.number = number - 1

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        return line


def _told_apart(file: TextIOWrapper, reading: Reading, default: str) -> tuple[_Lines, str]:
    """Return the lines from the one that names the columns on, and the delimiter.

    Before it may stand blank lines, and one that only names the delimiter.
    """
    number, separator = 1, ""
    line = file.readline()
    while line and (not line.strip() or _SEPARATOR_LINE.fullmatch(line)):
        separator = shown_delimiter(line) if line.strip() else separator
        line, number = file.readline(), number + 1
    return _Lines(file, line, number), reading.delimiter or separator or shown_delimiter(line) or default


def _record(number: int, cells: Sequence[str], names: Sequence[str], reading: Reading) -> Record:
    if len(cells) != len(names):
        return Record(number, None, f"has {len(cells)} cells, expected {len(names)} as in the first line")
    body = {name: cell for name, cell in zip(names, cells, strict=True) if name}
    if not reading.multi_line and (broken := [name for name, cell in body.items() if "\n" in cell or "\r" in cell]):
        fault = (
            f"has a line break in {', '.join(broken)}, but its MLTable says support_multi_line: false. Set it to true"
        )
        return Record(number, None, fault)
    return Record(number, {name: cell for name, cell in body.items() if cell or not reading.empty_is_null})


def _named(delimiter: str) -> str:
    return "tabs" if delimiter == "\t" else f"'{delimiter}'"
