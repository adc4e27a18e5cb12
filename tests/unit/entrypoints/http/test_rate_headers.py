"""What is left, in OpenAI's headers."""

import pytest

from mafunzo.entities.rate_limit import Allowance, RateState
from mafunzo.entrypoints.http.rate_headers import rate_headers


def test_what_is_left_is_told_by_limit() -> None:
    assert rate_headers(RateState(Allowance(60, 59, 1.0), Allowance(1000, 250, 45.0))) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "250",
        "x-ratelimit-reset-tokens": "45s",
    }


def test_what_has_no_limit_has_no_header() -> None:
    assert rate_headers(None) == rate_headers(RateState()) == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0ms"), (0.12, "120ms"), (3.4, "3s"), (60.0, "1m0s"), (372.0, "6m12s")]
)
def test_a_length_of_time_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert rate_headers(RateState(Allowance(1, 0, seconds)))["x-ratelimit-reset-requests"] == text
