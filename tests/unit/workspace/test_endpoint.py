"""Tests of `mafunzo.workspace.endpoint`: how traffic is shared when a deployment comes in."""

import pytest

from mafunzo.workspace.endpoint import _shared


@pytest.mark.parametrize(
    ("before", "share", "expected"),
    [
        pytest.param({}, 100, {"new": 100}, id="the first takes all"),
        pytest.param({"old": 100}, 0, {"old": 100, "new": 0}, id="none for the second"),
        pytest.param({"old": 100}, 10, {"old": 90, "new": 10}, id="a tenth"),
        pytest.param({"a": 75, "b": 25}, 20, {"a": 60, "b": 20, "new": 20}, id="the others keep their proportions"),
        pytest.param({"a": 50, "b": 50}, 1, {"a": 50, "b": 49, "new": 1}, id="what is left over goes to the first"),
    ],
)
def test_shares_add_up_to_100(before, share, expected):
    shares = _shared(before, "new", share)
    assert shares == expected
    assert sum(shares.values()) == 100
