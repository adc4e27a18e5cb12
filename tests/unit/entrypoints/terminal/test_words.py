"""Tests of `mafunzo.entrypoints.terminal.words`: what `key=value` words say."""

import pytest

from mafunzo.entrypoints.terminal.words import pairs
from mafunzo.errors import InvalidParameter


def test_a_word_is_split_at_its_first_equals_sign() -> None:
    assert pairs(["a=1", "path=x=y", "empty="]) == {"a": "1", "path": "x=y", "empty": ""}


def test_of_two_words_of_one_key_the_later_counts() -> None:
    assert pairs(["a=1", "a=2"]) == {"a": "2"}


def test_all_words_without_an_equals_sign_are_refused_at_once() -> None:
    with pytest.raises(InvalidParameter, match="The parameters can't be read") as refusal:
        pairs(["a", "b=1", "c"])
    assert refusal.value.faults == ("'a' isn't key=value.", "'c' isn't key=value.")
