"""Paired bootstrap of two models on the same rows: confidence intervals of each and of their difference, and the gate by them.

Rows are resampled with replacement, the same rows for both models (Efron 1979; paired as in Koehn 2004); a ratio such
as loss per token is recomputed from the resampled rows' sums. Intervals are percentiles of the resamples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mafunzo.compute.evaluation.metrics import Floats, Metric
from mafunzo.entities.evaluation import LEAST_ROWS
from mafunzo.errors import Faults, GateNotPassed

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

    is_better: True or False where the difference's interval excludes zero (significant), None where it includes zero, and
    where there are fewer than `LEAST_ROWS` rows.
    """

    name: str
    title: str
    is_higher_better: bool
    base: Estimate
    tuned: Estimate
    difference: Estimate
    is_better: bool | None
    rows: int

    @property
    def has_few_rows(self) -> bool:
        """Whether its intervals mean too little for a verdict."""
        return self.rows < LEAST_ROWS

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
                is_better=_is_better(difference, metric.is_higher_better, len(base_sums)),
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


def check_gate(
    demand: str,
    metric: str,
    comparisons: Mapping[str, Comparison],
    max_kl: float | None,
    kl: Estimate | None,
    prompts: int = LEAST_ROWS,
) -> None:
    """Raise `GateNotPassed` unless the quality gate's demands hold.

    better: the difference's interval lies wholly on the better side of zero. not_worse: it doesn't lie wholly on the
    worse side. max_kl: the lower bound of KL(base || tuned) on general prompts is at most this. Each has to be measured on
    `LEAST_ROWS` rows or `prompts`.
    """
    faults = Faults()
    if demand != "none":
        faults.add(_demand_fault(demand, comparisons[metric]))
    if max_kl is not None and (kl is None or prompts < LEAST_ROWS):
        faults.add(
            f"KL to the base was measured on {prompts if kl else 0} general prompts, gate_max_kl needs {LEAST_ROWS} or more: "
            "raise forgetting_prompts."
        )
    elif max_kl is not None and kl is not None and kl.low > max_kl:
        faults.add(
            f"KL to the base on general prompts is {kl.value:.4g} ({kl.low:.4g} to {kl.high:.4g}), gate_max_kl is {max_kl:g}."
        )
    faults.require_none(
        "The tuned model didn't pass the gate. Train on more or better data, change the learning rate or the epochs, "
        "or set gate to none to go on regardless.",
        GateNotPassed,
    )


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


def _is_better(difference: Estimate, is_higher_better: bool, rows: int) -> bool | None:
    if rows < LEAST_ROWS:
        return None
    if difference.low > 0:
        return is_higher_better
    if difference.high < 0:
        return not is_higher_better
    return None


def _demand_fault(demand: str, comparison: Comparison) -> str:
    if comparison.has_few_rows:
        return (
            f"{comparison.name}: measured on {comparison.rows} row{'s' if comparison.rows != 1 else ''}, a gate needs "
            f"{LEAST_ROWS} or more, since an interval of fewer means too little: gate is {demand}. Hold out more rows."
        )
    is_passed = comparison.is_better is True if demand == "better" else comparison.is_better is not False
    if is_passed:
        return ""
    side = "above" if comparison.is_higher_better else "below"
    expected = f"wholly {side} 0" if demand == "better" else f"not wholly on the other side of 0 ({side} is better)"
    difference = comparison.difference
    return (
        f"{comparison.name}: {comparison.base.value:.4g} -> {comparison.tuned.value:.4g}, difference {difference.value:+.4g} "
        f"({difference.low:+.4g} to {difference.high:+.4g}, 95%), expected {expected}: gate is {demand}."
    )
