"""Delays grow and are capped, as a table."""

import pytest

from mafunzo.entities.backoff import delay_s, is_over


@pytest.mark.parametrize(
    ("attempts", "expected_s"),
    [(0, 0), (1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60), (100, 60), (10**6, 60)],
)
def test_each_failure_in_a_row_doubles_the_delay_up_to_a_minute(attempts: int, expected_s: float) -> None:
    assert delay_s(attempts) == expected_s


@pytest.mark.parametrize(
    ("rest_s", "is_there"),
    [
        pytest.param(-3600.0, True, id="long ago"),
        pytest.param(0.0, True, id="now"),
        pytest.param(0.1, False, id="not yet"),
        pytest.param(60.0, False, id="the longest delay"),
        pytest.param(3600.0, True, id="the clock was put back by an hour"),
    ],
)
def test_no_wait_is_longer_than_the_longest_delay(rest_s: float, is_there: bool) -> None:
    assert is_over(rest_s) is is_there
