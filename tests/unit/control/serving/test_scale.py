"""How many workers a load needs, and how the number follows it, whatever the load does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mafunzo.control.serving.scale import Lull, instances_now, lull_now, needed
from mafunzo.entities.scale import Scale

BOUNDS = st.tuples(st.integers(0, 5), st.integers(1, 8)).filter(lambda pair: pair[0] <= pair[1])
SCALES = BOUNDS.map(lambda pair: Scale(*pair, idle_s=60))
LOADS = st.lists(st.integers(0, 200), min_size=1, max_size=60)
AT_ONCE = 16


@pytest.mark.parametrize(
    ("scale", "requests", "workers"),
    [
        pytest.param(Scale(3, 3), 0, 3, id="fixed"),
        pytest.param(Scale(3, 3), 1000, 3, id="fixed under load"),
        pytest.param(Scale(0, 3), 0, 0, id="none without a request"),
        pytest.param(Scale(0, 3), 1, 1, id="one request wakes one"),
        pytest.param(Scale(1, 3), 11, 1, id="70 percent of 16 are 11.2"),
        pytest.param(Scale(1, 3), 12, 2, id="a second one above that"),
        pytest.param(Scale(1, 3, target_percent=100), 16, 1, id="all of 16"),
        pytest.param(Scale(1, 3), 1000, 3, id="never more than the most"),
        pytest.param(Scale(2, 3), 0, 2, id="never fewer than the least"),
    ],
)
def test_a_load_needs_so_many_workers(scale: Scale, requests: int, workers: int) -> None:
    assert needed(scale, requests, AT_ONCE) == workers


def followed(scale: Scale, loads: list[int], step_s: float) -> list[tuple[int, int]]:
    """Return (workers needed, workers there are) at each look, a look every `step_s`."""
    count, lull, steps = scale.min_instances, None, []
    for at, requests in enumerate(loads):
        need, now = needed(scale, requests, AT_ONCE), at * step_s
        lull = lull_now(lull, need, count, now)
        count = instances_now(scale, count, need, lull, now)
        steps.append((need, count))
    return steps


@given(SCALES, LOADS)
def test_there_are_never_fewer_workers_than_needed_nor_more_or_fewer_than_allowed(
    scale: Scale, loads: list[int]
) -> None:
    for need, count in followed(scale, loads, 1.0):
        assert need <= count
        assert scale.min_instances <= count <= scale.max_instances


@given(SCALES, LOADS)
def test_no_worker_ends_before_fewer_have_sufficed_for_the_whole_idle_time(scale: Scale, loads: list[int]) -> None:
    steps = followed(scale, loads, 1.0)
    for at in range(1, len(steps)):
        if steps[at][1] < steps[at - 1][1]:
            assert at >= scale.idle_s
            recent = steps[at - int(scale.idle_s) : at + 1]
            assert steps[at][1] >= max(need for need, _ in recent)


@given(SCALES, st.integers(0, 200))
def test_a_steady_load_ends_with_just_the_workers_that_it_needs(scale: Scale, requests: int) -> None:
    steps = followed(scale, [200, *[requests] * 5], step_s=scale.idle_s)
    assert steps[-1][1] == needed(scale, requests, AT_ONCE)


def test_a_lull_ends_when_all_workers_are_needed_again() -> None:
    lull = lull_now(None, 1, 3, 10.0)
    assert lull == Lull(10.0, 1)
    assert lull_now(lull, 2, 3, 20.0) == Lull(10.0, 2)
    assert lull_now(lull, 3, 3, 20.0) is None
