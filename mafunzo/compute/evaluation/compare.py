"""Paired bootstrap of two models on the same rows: confidence intervals of each, and of their difference.

Rows are resampled with replacement, the same rows for both models (Efron 1979; paired as in Koehn 2004); a ratio such
as loss per token is recomputed from the resampled rows' sums. Intervals are percentiles of the resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mafunzo.compute.evaluation.metrics import Floats, Metric

RESAMPLES = 5000
CONFIDENCE = 0.95
CHUNK_CELLS = 8_000_000


@dataclass(frozen=True)
class Estimate:
    """A value measured on all rows, and the bounds of its confidence interval (`CONFIDENCE`)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One metric of both models. `difference` is tuned minus base.

    is_better: True or False where the difference's interval excludes zero (significant), None where it includes zero.
    """

    name: str
    title: str
    is_higher_better: bool
    base: Estimate
    tuned: Estimate
    difference: Estimate
    is_better: bool | None
    rows: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    metrics: Sequence[Metric], base_sums: Floats, tuned_sums: Floats, seed: int, resamples: int = RESAMPLES
) -> list[Comparison]:
    """Compare two models by `metrics` of one source; the sums are shaped (rows, columns), row for row the same data."""
    assert base_sums.shape == tuned_sums.shape and len(base_sums) > 0
    base_R, tuned_R = _resampled(np.stack([base_sums, tuned_sums]), seed, resamples)
    comparisons = []
    for metric in metrics:
        base_value, tuned_value = metric.value(base_sums.sum(axis=0)), metric.value(tuned_sums.sum(axis=0))
        base_values, tuned_values = metric.value(base_R), metric.value(tuned_R)
        difference = _estimate(tuned_value - base_value, tuned_values - base_values)
        comparisons.append(
            Comparison(
                name=metric.name,
                title=metric.title,
                is_higher_better=metric.is_higher_better,
                base=_estimate(base_value, base_values),
                tuned=_estimate(tuned_value, tuned_values),
                difference=difference,
                is_better=_is_better(difference, metric.is_higher_better),
                rows=len(base_sums),
            )
        )
    return comparisons


def estimate_ratio(numerators: Floats, denominators: Floats, seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Return sum(numerators) / sum(denominators), both shaped (rows,), with the interval over resampled rows."""
    sums = np.stack([numerators, denominators], axis=-1).astype(np.float64)
    total = sums.sum(axis=0)
    (sums_R,) = _resampled(sums[None], seed, resamples)
    return _estimate(total[0] / total[1], sums_R[:, 0] / sums_R[:, 1])


def _resampled(sums: Floats, seed: int, resamples: int) -> Floats:
    """Return sums over resampled rows: (models, rows, columns) to (models, resamples, columns)."""
    chunks = [np.einsum("rn,mnc->mrc", counts, sums) for counts in _row_counts(sums.shape[1], seed, resamples)]
    return np.concatenate(chunks, axis=1)


def _row_counts(rows: int, seed: int, resamples: int) -> Iterator[Floats]:
    """Yield how often each row is drawn, shaped (some resamples, rows), in chunks of bounded memory."""
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // rows)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        yield rng.multinomial(rows, np.full(rows, 1.0 / rows), size=size).astype(np.float64)


def _estimate(value: Any, resamples: Floats) -> Estimate:
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(resamples, [tail, 1.0 - tail])
    return Estimate(float(value), float(low), float(high))


def _is_better(difference: Estimate, is_higher_better: bool) -> bool | None:
    if difference.low > 0:
        return is_higher_better
    if difference.high < 0:
        return not is_higher_better
    return None
