"""How a file is read: what every reader takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

UTF8 = "utf-8"


@dataclass(frozen=True)
class Reading:
    """What is said of a file beside its name, by an MLTable; without one, all is found in the file itself.

    kind: `jsonl`, `csv` or `parquet`, whatever the file's suffix; empty for the kind that its suffix says.
    encoding: a codec of Python's. delimiter: one character between cells; empty for the one that the first line shows.
    header: whether each file begins with the names of its columns, or only the first.
    empty_is_null: whether an empty cell counts as missing. multi_line: whether a quoted cell may hold a line break.
    invalid_lines: whether a line that isn't JSON is a bad row, or no row.
    """

    kind: str = ""
    encoding: str = UTF8
    delimiter: str = ""
    header: Literal["each", "first"] = "each"
    empty_is_null: bool = False
    multi_line: bool = True
    invalid_lines: Literal["error", "drop"] = "error"


class Record(NamedTuple):
    """One row of a file. number: how the user finds it there; body: None where it isn't wanted or has a `fault`."""

    number: int
    body: dict[str, Any] | None
    fault: str = ""


Selection = Callable[[int], bool]
"""Whether the row of a file is wanted, counted from 0; the others aren't parsed where that saves time."""


_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def encoding_of(head: bytes) -> str:
    """Return the codec of a text by its first bytes: UTF-16 or UTF-32 by their mark, or by the NUL beside its first letter.

    Excel writes UTF-16 as "Unicode text", and PowerShell with `>`.
    """
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return codec
    if len(head) >= 2 and head[:2].count(0) == 1:
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    return UTF8


def decoding_fault(error: UnicodeDecodeError, encoding: str = UTF8) -> str:
    """Return what is wrong with bytes that aren't in an encoding."""
    name = "UTF-8" if encoding == UTF8 else encoding
    byte = error.object[error.start]
    advice = "Save the file as UTF-8" if encoding.startswith("utf") else "Correct the encoding that the MLTable names"
    return f"isn't {name}: byte 0x{byte:02x} at position {error.start}. {advice}"
