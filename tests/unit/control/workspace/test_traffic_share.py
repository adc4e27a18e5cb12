"""Tests of `mafunzo.control.workspace.traffic_share`: how shares add up."""

import pytest

from mafunzo.control.workspace.traffic_share import rebalanced
from mafunzo.errors import InvalidParameter


@pytest.mark.parametrize(
    ("before", "share", "expected"),
    [
        pytest.param({}, 100, {"new": 100}, id="the first takes all"),
        pytest.param({}, None, {"new": 100}, id="the first takes all unless told"),
        pytest.param({"old": 100}, None, {"old": 100, "new": 0}, id="a later one takes none unless told"),
        pytest.param({"old": 100}, 0, {"old": 100, "new": 0}, id="none for the second"),
        pytest.param({"old": 100}, 10, {"old": 90, "new": 10}, id="a tenth"),
        pytest.param({"a": 75, "b": 25}, 20, {"a": 60, "b": 20, "new": 20}, id="the others keep their proportions"),
        pytest.param({"a": 50, "b": 50}, 1, {"a": 50, "b": 49, "new": 1}, id="what is left over goes to the first"),
    ],
)
def test_shares_add_up_to_100(before, share, expected):
    shares = rebalanced(before, "new", share)
    assert shares == expected
    assert sum(shares.values()) == 100


def test_a_first_deployment_may_have_no_traffic():
    assert rebalanced({}, "new", 0) == {"new": 0}


@pytest.mark.parametrize("before", [pytest.param({}, id="no deployment"), pytest.param({"new": 100}, id="only itself")])
def test_a_share_that_leaves_a_rest_for_nobody_is_refused(before):
    with pytest.raises(InvalidParameter, match=r"traffic is 50, but no other .* the other 50 percent.*100, or 0"):
        rebalanced(before, "new", 50)


@pytest.mark.parametrize("share", [-1, 101])
def test_a_share_is_0_to_100(share):
    with pytest.raises(InvalidParameter, match="expected 0 to 100 percent"):
        rebalanced({"old": 100}, "new", share)
