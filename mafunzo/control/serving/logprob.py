"""How far a worker's log-probabilities lie from the tuned model's, and whether they lie nearer to its base's. Pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mafunzo.control.serving.reference import Reference, ReferenceRow

Logprobs = Sequence[float | None]

SURE = 3.0
"""Standard errors that a share must lie beyond its bound, so that rounding alone refuses no model."""
LEAST_SIGNED_MEAN = -700.0
"""Below it a perplexity is no number of a machine any more."""


@dataclass(frozen=True)
class Difference:
    """The largest difference of a log-probability, and where."""

    size: float
    row: int
    position: int
    expected: float
    actual: float | None


@dataclass(frozen=True)
class Distance:
    """Over all tokens of all rows. mean: of the differences' sizes; signed_mean: with their signs, below 0 where the worker
    finds the text less likely.

    share: how much of the tuning the worker shows: 1 is the tuned model, 0 its base, 2 the tuning applied twice; with its
    standard error. None where the base's log-probabilities aren't known, or are the tuned model's.
    """

    largest: Difference
    mean: float
    signed_mean: float = 0.0
    share: float | None = None
    share_error: float = 0.0

    @property
    def is_base(self) -> bool:
        """Whether it surely lies nearer to the base than to the tuned model."""
        return self.share is not None and self.share < 0.5 - SURE * self.share_error

    @property
    def is_overdone(self) -> bool:
        """Whether it surely shows more than the tuning and a half."""
        return self.share is not None and self.share > 1.5 + SURE * self.share_error

    @property
    def is_told_from_base(self) -> bool:
        """Whether it surely lies nearer to the tuned model than to the base."""
        return self.share is not None and self.share > 0.5 + SURE * self.share_error

    @property
    def perplexity_ratio(self) -> float:
        """The worker's perplexity of the text, divided by the tuned model's: above 1 where the worker is the worse."""
        return math.inf if self.signed_mean < LEAST_SIGNED_MEAN else math.exp(-self.signed_mean)


def measure(reference: Reference, worker_logprobs: Sequence[Logprobs]) -> Distance:
    """Compare the log-probabilities of each row's tokens; they must be as many. What isn't a number is infinitely far."""
    differences = [
        Difference(_apart(was, now), number, position, was, now)
        for number, (row, row_logprobs) in enumerate(zip(reference.rows, worker_logprobs, strict=True))
        for position, (was, now) in enumerate(zip(row.logprobs, row_logprobs, strict=True))
        if was is not None
    ]
    if not differences:
        return Distance(Difference(0.0, 0, 0, 0.0, 0.0), 0.0)
    largest = max(differences, key=lambda difference: difference.size)
    mean = math.fsum(difference.size for difference in differences) / len(differences)
    if math.isinf(largest.size):
        return Distance(largest, mean, math.nan)
    signed_mean = math.fsum(_signed(difference) for difference in differences) / len(differences)
    share, error = _share(reference.rows, worker_logprobs)
    return Distance(largest, mean, signed_mean, share, error)


def _apart(was: float, now: float | None) -> float:
    return abs(was - now) if now is not None and math.isfinite(now) else math.inf


def _signed(difference: Difference) -> float:
    assert difference.actual is not None
    return difference.actual - difference.expected


def _share(rows: Sequence[ReferenceRow], worker_logprobs: Sequence[Logprobs]) -> tuple[float | None, float]:
    """Return the least-squares share s in `worker - base = s (tuned - base)`, and its standard error.

    s < 0.5 says that the squared distance to the base is the smaller one, whatever rounding adds to all three alike.
    """
    pairs = [
        (tuned - base, now - base)
        for row, row_logprobs in zip(rows, worker_logprobs, strict=True)
        for base, tuned, now in _all(row, row_logprobs)
    ]
    squares = math.fsum(tuning * tuning for tuning, _ in pairs)
    if len(pairs) < 2 or squares == 0.0:
        return None, 0.0
    share = math.fsum(tuning * shift for tuning, shift in pairs) / squares
    unexplained = math.fsum((shift - share * tuning) ** 2 for tuning, shift in pairs)
    return share, math.sqrt(unexplained / (len(pairs) - 1) / squares)


def _all(row: ReferenceRow, row_logprobs: Logprobs) -> Iterator[tuple[float, float, float]]:
    for base, tuned, now in zip(row.base_logprobs or (), row.logprobs, row_logprobs, strict=False):
        if base is not None and tuned is not None and now is not None:
            yield base, tuned, now
