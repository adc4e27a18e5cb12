"""Rows for people: learned text is told from read text on a terminal and in a pipe, and each bad row has its line."""

import io
import sys

import pytest

from mafunzo.entrypoints.terminal.preview import MARKS, print_preview, unused_marks

PIECES = [{"text": "<|user|>\nHabari?\n<|assistant|>\n", "trained": False}, {"text": "Nzuri!\x1b[2J", "trained": True}]
ROW = {"file": "a.jsonl", "row": 4, "pieces": PIECES, "tokens": 9, "assistant_tokens": 3, "truncated_from": 12}
BAD = [{"file": "a.jsonl", "row": row, "reason": f"'messages' is [red]empty[/red] {row}"} for row in (2, 7)]
REPORT = {"rows_read": 10, "bad": BAD, "notes": {"has several turns of the user in a row": 2}}


def test_a_pipe_has_marks_and_a_line_for_each_bad_row(capsys: pytest.CaptureFixture[str]) -> None:
    long_row = {**ROW, "row": 5, "pieces": [{"text": "word " * 90, "trained": True}]}
    print_preview([ROW, long_row], REPORT)
    lines = capsys.readouterr().out.splitlines()
    assert "row 4: 9 tokens, 3 learned, cut from 12 tokens" in lines[0]
    assert lines[1:4] == ["<|user|>", "Habari?", "<|assistant|>"]
    assert lines[4] == "[[Nzuri!\\x1b[2J]]"
    assert lines[6] == f"[[{'word ' * 90}]]"
    assert lines[8:] == [
        "[[learned]] only read",
        "2 of 10 rows can't be used:",
        "  a.jsonl, row 2: 'messages' is [red]empty[/red] 2",
        "  a.jsonl, row 7: 'messages' is [red]empty[/red] 7",
        "2 rows: has several turns of the user in a row",
    ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_colour", [False, True], ids=["colour", "NO_COLOR"])
def test_a_terminal_has_colour_unless_it_is_told_not_to(monkeypatch: pytest.MonkeyPatch, no_colour: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    print_preview([ROW], {"rows_read": 1})
    told = terminal.getvalue()
    assert ("\x1b[1;32m" in told) is not no_colour
    assert ("[[Nzuri!" in told) is no_colour
    assert "\x1b[2J" not in told


def test_marks_are_such_as_stand_in_no_text() -> None:
    assert unused_marks(["x"]) == MARKS[0]
    assert unused_marks(["if [[ -f x ]]; then", "cat <<< y"]) == MARKS[2]
    assert unused_marks(mark for pair in MARKS for mark in pair) == MARKS[-1]
