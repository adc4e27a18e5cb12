"""The distance between a worker and the tuned model, on made-up log-probabilities."""

import math
import random
from collections.abc import Sequence

import pytest

from mafunzo.control.serving.logprob import Distance, measure
from mafunzo.control.serving.reference import Reference, ReferenceRow

TOKENS = 400


def reference(tuned: Sequence[float], base: Sequence[float] | None = None) -> Reference:
    row = ReferenceRow(
        messages=[],
        token_ids=[0] * (len(tuned) + 1),
        prompt_token_ids=[],
        logprobs=[None, *tuned],
        base_logprobs=None if base is None else [None, *base],
    )
    return Reference(tolerance=0.1, stop_token_ids=[], rows=[row])


def noisy(seed: int, values: Sequence[float], noise: float) -> list[float]:
    draw = random.Random(seed)
    return [value + draw.gauss(0, noise) for value in values]


def between(share: float, tuning: float, noise: float) -> Distance:
    """The distance of a worker that shows `share` of a tuning of a size, with rounding of all three."""
    truth = noisy(0, [-3.0] * TOKENS, 1.0)
    moved = noisy(1, [0.0] * TOKENS, tuning)
    base = noisy(2, truth, noise)
    tuned = noisy(3, [a + b for a, b in zip(truth, moved, strict=True)], noise)
    worker = noisy(4, [a + share * b for a, b in zip(truth, moved, strict=True)], noise)
    return measure(reference(tuned, base), [[None, *worker]])


def test_the_largest_difference_is_found_with_its_place() -> None:
    found = measure(reference([-1.0, -2.0, -3.0]), [[None, -1.0, -2.5, -3.1]])
    assert (found.largest.row, found.largest.position) == (0, 2)
    assert (found.largest.expected, found.largest.actual) == (-2.0, -2.5)
    assert found.largest.size == pytest.approx(0.5)
    assert found.mean == pytest.approx(0.2)
    assert found.share is None


@pytest.mark.parametrize("given", [None, math.nan, -math.inf])
def test_what_is_no_number_is_infinitely_far(given: float | None) -> None:
    assert measure(reference([-1.0]), [[None, given]]).largest.size == math.inf


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("tuning", [0.05, 0.2, 1.0])
def test_a_worker_is_told_from_its_base_even_where_rounding_is_as_large_as_the_tuning(
    tuning: float, noise: float
) -> None:
    tuned, base, twice = between(1, tuning, noise), between(0, tuning, noise), between(2, tuning, noise)
    assert (tuned.is_base, tuned.is_overdone, tuned.is_told_from_base) == (False, False, True)
    assert (base.is_base, base.is_told_from_base) == (True, False)
    if tuning > noise * 2:
        assert twice.is_overdone


def test_a_tuning_that_rounding_hides_refuses_nothing_and_proves_nothing() -> None:
    for share in (0, 1):
        found = between(share, 0.0005, 0.05)
        assert (found.is_base, found.is_overdone, found.is_told_from_base) == (False, False, False)


def test_a_tuning_that_changed_nothing_has_no_share() -> None:
    assert measure(reference([-1.0, -2.0], [-1.0, -2.0]), [[None, -1.0, -2.0]]).share is None


def test_what_a_worker_finds_less_likely_raises_its_perplexity() -> None:
    worse = measure(reference([-1.0, -2.0, -3.0]), [[None, -1.5, -2.0, -2.9]])
    assert worse.signed_mean == pytest.approx(-0.4 / 3)
    assert worse.perplexity_ratio == pytest.approx(math.exp(6.4 / 3) / math.exp(2.0))
    assert measure(reference([-1.0]), [[None, -0.5]]).perplexity_ratio == pytest.approx(math.exp(-0.5))
    assert measure(reference([-1.0]), [[None, -2000.0]]).perplexity_ratio == math.inf
    assert math.isnan(measure(reference([-1.0]), [[None, None]]).perplexity_ratio)
