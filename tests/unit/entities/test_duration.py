"""Tests of `mafunzo.entities.duration`."""

from typing import Any

import pytest

from mafunzo.entities.duration import age_of, limit_of, seconds_of
from mafunzo.errors import InvalidParameter


@pytest.mark.parametrize(
    ("given", "seconds"), [(90, 90), (1.5, 1.5), ("100", 100), (" 0.5 ", 0.5), ("PT1M40S", 100), ("P1DT1H", 90000)]
)
def test_a_limit_is_a_number_of_seconds_or_a_duration(given: Any, seconds: float) -> None:
    assert limit_of(given) == seconds


@pytest.mark.parametrize("given", ["soon", "PT", "PTsoon", "", -1, "nan", "inf", [], 10**400, "P" + "9" * 5000 + "D"])
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(InvalidParameter, match="isn't a duration, expected"):
        limit_of(given)


def test_a_duration_is_in_seconds() -> None:
    assert seconds_of("P1DT2H3M4S") == 93784


@pytest.mark.parametrize(
    ("age", "seconds"),
    [
        ("30d", 2_592_000),
        ("12h", 43_200),
        ("1.5 h", 5_400),
        ("90s", 90),
        ("2w", 1_209_600),
        ("5m", 300),
        ("P1DT1H", 90_000),
    ],
)
def test_an_age_has_a_number_and_a_unit_or_is_iso_8601(age: str, seconds: float) -> None:
    assert age_of(age) == seconds


@pytest.mark.parametrize("age", ["", "30", "d", "-1d", "30 days", "1e3d", "P"])
def test_what_is_no_age_is_refused(age: str) -> None:
    with pytest.raises(
        InvalidParameter, match="duration" if age == "P" else "isn't an age, expected a number and its unit"
    ):
        age_of(age)
