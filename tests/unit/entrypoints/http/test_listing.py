"""Lists in every dialect."""

import logging

import pytest

from mafunzo.entrypoints.http.listing import shown


def test_one_thing_that_cannot_be_shown_never_hides_the_others(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert list(shown([1, 0, 2], lambda number: 2 / number)) == [2.0, 1.0]
    assert "A int can't be shown in a list: 0" in caplog.text
    assert list(shown([1, 0], lambda number: 2 / number, lambda number: -1.0)) == [2.0, -1.0]
