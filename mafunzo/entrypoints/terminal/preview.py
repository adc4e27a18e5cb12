"""Rows as the network will see them, for people: what is learned is told from what is only read, by colour or by marks."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mafunzo.entrypoints.terminal.output import PIPED_WIDTH

MARKS = (("[[", "]]"), ("<<<", ">>>"), ("{+", "+}"), ("[learned[", "]learned]"))
"""Around learned text where there is no colour; the first pair that stands in no text is taken."""
_LEARNED, _READ = "bold green", "dim"
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def print_preview(rows: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
    """Print rows, then what there is to say of the whole file: a line for each bad row, and the notes with their counts."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    has_colour = console.is_terminal and console.color_system is not None and not console.no_color
    marks = ("", "") if has_colour else unused_marks(piece["text"] for row in rows for piece in row["pieces"])
    for number, row in enumerate(rows, start=1):
        console.rule(_title(row, number))
        console.print(_text(row["pieces"], marks), soft_wrap=True, crop=False)
    console.rule()
    legend = [{"text": "learned", "trained": True}, {"text": " only read", "trained": False}]
    console.print(_text(legend, marks), soft_wrap=True)
    for line in report_lines(report):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Return what is said of all rows of the file."""
    bad = report.get("bad") or []
    return [
        *([f"{len(bad)} of {report['rows_read']} rows can't be used:"] if bad else []),
        *(f"  {row['file']}, row {row['row']}: {row['reason']}".translate(_CONTROL) for row in bad),
        *(f"{count} rows: {note}" for note, count in (report.get("notes") or {}).items()),
    ]


def unused_marks(texts: Iterable[str]) -> tuple[str, str]:
    """Return the first pair of marks that no text holds, else the last one."""
    joined = "\0".join(texts)
    return next((pair for pair in MARKS if not any(mark in joined for mark in pair)), MARKS[-1])


def _title(row: Mapping[str, Any], number: int) -> str:
    cut = f", cut from {row['truncated_from']} tokens" if row.get("truncated_from") else ""
    learned = f": {row['tokens']} tokens, {row['assistant_tokens']} learned{cut}" if "tokens" in row else ""
    return f"row {row.get('row', number)}{learned}"


def _text(pieces: Iterable[Mapping[str, Any]], marks: tuple[str, str]) -> Any:
    """Return the pieces in their styles, with the marks around what is learned; control characters as their codes."""
    from rich.text import Text

    before, after = marks
    text = Text()
    for piece in pieces:
        shown = piece["text"].translate(_CONTROL)
        is_learned = piece["trained"]
        text.append(f"{before}{shown}{after}" if is_learned else shown, style=_LEARNED if is_learned else _READ)
    return text
