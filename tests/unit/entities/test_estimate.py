"""Tests of `mafunzo.entities.estimate`."""

import json

import pytest

from mafunzo.entities.estimate import Estimate, Range, Scoreboard, Spread, error_share, scoreboard_of
from tests.support.made_estimate import made_estimate


def test_a_range_reaches_as_far_to_each_side_and_never_below_nothing():
    assert Range.around(100, 0.15) == Range(100, 85, pytest.approx(115))
    assert Range.around(100, 1.5).low == 0


def test_an_hour_s_price_gives_the_cost_of_the_start_too():
    assert made_estimate().cost is None
    cost = made_estimate().at(0.5).cost
    assert (cost.expected, cost.low, cost.high) == pytest.approx((7206 / 7200, 6006 / 7200, 8406 / 7200))


@pytest.mark.parametrize("price", [None, 0.0, 0.5])
def test_what_it_says_in_json_is_it(price):
    estimate = made_estimate().at(price)
    body = json.loads(json.dumps(estimate.as_dict()))
    assert Estimate.from_dict(body) == estimate
    assert ("cost" in body, "price_per_hour" in body) == (price is not None, price is not None)


def test_a_scoreboard_has_the_median_and_the_90th_percentile_of_each():
    errors = [(share / 100, share / 10) for share in range(11)]
    board = scoreboard_of(errors, 3)
    assert (board.runs, board.left_out) == (11, 3)
    assert (board.time.median, board.time.p90) == pytest.approx((0.05, 0.09))
    assert (board.memory.median, board.memory.p90) == pytest.approx((0.5, 0.9))
    assert scoreboard_of([(0.2, 0.1)], 0).time == Spread(0.2, 0.2)
    assert scoreboard_of([], 3) == Scoreboard(0, 3, None, None)


def test_an_error_is_a_share_of_what_was_measured():
    assert error_share(80, 100) == error_share(120, 100) == pytest.approx(0.2)
