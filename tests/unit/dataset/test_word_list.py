"""Tests of `mafunzo.dataset.word_list`: the published list, and texts with words of it."""

import zipfile
from pathlib import Path

import pytest

from mafunzo.dataset import word_list
from mafunzo.dataset.word_list import has_word_of, negative_words

LEXICON = "bad\t-2.5\t0.7\t[-3]\nHorrid\t-2.0\t0.1\t[-2]\nmeh\t-1.9\t0.9\t[-2]\ngood\t1.9\t0.9\t[2]\n"


def test_strongly_negative_words_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(wheel := tmp_path / "list.whl", "w") as file:
        file.writestr("vaderSentiment/vader_lexicon.txt", LEXICON)
    monkeypatch.setattr(word_list, "fetch_wheel", lambda *_: wheel)
    assert negative_words(tmp_path, offline=True) == {"bad", "horrid"}


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("That is BAD!", True),
        ("badly put", False),
        ("it isn't bad-looking", True),
        ("they're fine", False),
        ("", False),
    ],
)
def test_words_are_whole_and_of_any_case(text: str, has: bool) -> None:
    assert has_word_of(text, {"bad"}) is has
