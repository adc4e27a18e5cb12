"""Which limits can be set, and whose holds."""

import pytest

from mafunzo.entities.rate_limit import RateLimit, limit_of, require_rate_limit
from mafunzo.errors import InvalidParameter


def test_a_caller_has_its_own_limit_else_everybodys_else_none() -> None:
    limits = {"default": RateLimit(5), "user:amina": RateLimit(None, 100)}
    assert limit_of(limits, "user:amina") == RateLimit(None, 100)
    assert limit_of(limits, "primary") == RateLimit(5)
    assert limit_of({}, "primary") == RateLimit()


@pytest.mark.parametrize("caller", ["default", "primary", "secondary", "general", "user:amina"])
def test_a_limit_of_a_caller_passes(caller: str) -> None:
    require_rate_limit(caller, RateLimit(1, 10**9))


def test_all_that_can_not_be_is_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as caught:
        require_rate_limit("third", RateLimit(0, -1))
    assert [fault.partition(",")[0] for fault in caught.value.faults] == [
        "'third' isn't a caller",
        "requests_per_minute is 0",
        "tokens_per_minute is -1",
    ]


def test_a_limit_is_told_in_words() -> None:
    assert str(RateLimit(60, 1000)) == "60 requests and 1000 tokens a minute"
    assert str(RateLimit(60)) == "60 requests a minute"
    assert str(RateLimit()) == "no limit"
