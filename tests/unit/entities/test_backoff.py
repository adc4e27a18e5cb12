"""Delays grow and are capped, as a table."""

import pytest

from mafunzo.entities.backoff import delay_s


@pytest.mark.parametrize(
    ("attempts", "expected_s"),
    [(0, 0), (1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60), (100, 60), (10**6, 60)],
)
def test_each_failure_in_a_row_doubles_the_delay_up_to_a_minute(attempts: int, expected_s: float) -> None:
    assert delay_s(attempts) == expected_s
