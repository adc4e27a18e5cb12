"""Tests of `mafunzo.entities.estimate`."""

import json

import pytest

from mafunzo.entities.estimate import Estimate, Range
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
