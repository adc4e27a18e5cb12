"""Who may ask how much, and when again: a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mafunzo.control.serving.rate import Rates
from mafunzo.entities.endpoint import Endpoint
from mafunzo.entities.rate_limit import Allowance, RateLimit, RateState
from mafunzo.errors import RateLimitExceeded


class Bench:
    """What callers of the endpoint chat have used; `now_s` moves the clock."""

    def __init__(self, **limits: RateLimit) -> None:
        self.now_s = 100.0
        self.endpoint = Endpoint("chat", rate_limits=limits)
        self.rates = Rates(lambda: self.now_s)

    def is_let_in(self, caller: str = "primary", tokens: int = 0) -> bool:
        try:
            self.rates.admit(self.endpoint, caller, tokens)
        except RateLimitExceeded:
            return False
        return True

    def state(self, caller: str = "primary") -> RateState:
        return self.rates.state(self.endpoint, caller)


def test_a_caller_may_ask_so_often_in_a_minute_and_then_as_often_as_the_rate_says() -> None:
    bench = Bench(default=RateLimit(requests_per_minute=6))
    assert [bench.is_let_in() for _ in range(8)] == [True] * 6 + [False] * 2
    with pytest.raises(
        RateLimitExceeded, match=r"'primary' may ask endpoint 'chat' for 6 requests a minute.* in 10 s"
    ) as caught:
        bench.rates.admit(bench.endpoint, "primary", 0)
    assert caught.value.retry_after_s == pytest.approx(10)
    bench.now_s += 10
    assert [bench.is_let_in() for _ in range(2)] == [True, False]
    bench.now_s += 60
    assert [bench.is_let_in() for _ in range(7)] == [True] * 6 + [False]


def test_one_callers_requests_take_nothing_from_another() -> None:
    bench = Bench(default=RateLimit(1), secondary=RateLimit(3))
    assert [bench.is_let_in("primary"), bench.is_let_in("primary")] == [True, False]
    assert [bench.is_let_in("secondary") for _ in range(4)] == [True, True, True, False]
    assert [bench.is_let_in("user:amina"), bench.is_let_in("user:amina")] == [True, False]
    assert bench.rates.admit(Endpoint("other"), "primary", 0).state == RateState(), "of another endpoint"


def test_tokens_that_may_be_taken_are_charged_before_and_those_that_were_after() -> None:
    bench = Bench(default=RateLimit(tokens_per_minute=100))
    first = bench.rates.admit(bench.endpoint, "primary", 80)
    assert not bench.is_let_in(tokens=30), "together they might be too many"
    first.settle(10)
    first.settle(10)
    assert bench.state() == RateState(None, Allowance(100, 90, 6.0))
    second = bench.rates.admit(bench.endpoint, "primary", 30)
    second.settle(300)
    assert not bench.is_let_in(tokens=1)
    bench.now_s += 127
    assert bench.is_let_in(tokens=1)


def test_a_request_of_more_than_a_minute_s_worth_goes_when_nothing_else_was_used() -> None:
    bench = Bench(default=RateLimit(tokens_per_minute=100))
    assert bench.is_let_in(tokens=500)
    assert not bench.is_let_in(tokens=1)
    bench.now_s += 300
    assert bench.is_let_in(tokens=500)


def test_a_limit_that_changes_holds_at_once() -> None:
    bench = Bench(default=RateLimit(requests_per_minute=2))
    assert [bench.is_let_in() for _ in range(3)] == [True, True, False]
    bench.endpoint = Endpoint("chat", rate_limits={"default": RateLimit(requests_per_minute=4)})
    assert [bench.is_let_in() for _ in range(3)] == [True, True, False]
    bench.endpoint = Endpoint("chat")
    assert bench.is_let_in()


@given(st.integers(1, 50), st.lists(st.floats(0, 90), min_size=1, max_size=60))
def test_in_no_minute_more_than_twice_the_limit_gets_in_and_who_waits_as_told_is_let_in(
    per_minute: int, pauses_s: list[float]
) -> None:
    bench = Bench(default=RateLimit(requests_per_minute=per_minute))
    let_in: list[float] = []
    for pause_s in pauses_s:
        bench.now_s += pause_s
        try:
            bench.rates.admit(bench.endpoint, "primary", 0)
        except RateLimitExceeded as error:
            assert error.retry_after_s is not None
            bench.now_s += error.retry_after_s
            bench.rates.admit(bench.endpoint, "primary", 0)
        let_in.append(bench.now_s)
    for at in let_in:
        assert sum(at <= moment < at + 60 for moment in let_in) <= 2 * per_minute
