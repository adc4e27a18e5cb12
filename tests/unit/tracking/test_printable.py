"""Tests of `mafunzo.tracking.printable`: a terminal obeys nothing that others wrote."""

import pytest

from mafunzo.tracking.printable import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain, naïve\tand 漢字\n", "plain, naïve\tand 漢字\n", id="text stays"),
        pytest.param("\x1b[2Jgone", "\u241b[2Jgone", id="the screen isn't cleared"),
        pytest.param("\x1b]0;title\x07", "\u241b]0;title\u2407", id="the window isn't renamed"),
        pytest.param("\x1b]52;c;cm0=\x1b\\\\", "\u241b]52;c;cm0=\u241b\\\\", id="the clipboard isn't written"),
        pytest.param("\x9b6n", "\ufffd6n", id="no sequence begins with one character either"),
        pytest.param("a\rb\x08\x7f", "a\u240db\u2408\u2421", id="nothing is written over"),
        pytest.param("\x1b[1;31merror\x1b[0m", "error", id="a colour is left out"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, expected: str) -> None:
    assert printable(text) == expected
