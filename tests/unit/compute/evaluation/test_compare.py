from dataclasses import replace

import numpy as np
import pytest

from mafunzo.compute.evaluation import compare as module
from mafunzo.compute.evaluation.compare import Comparison, Estimate, check_gate, compare, estimate_ratio
from mafunzo.compute.evaluation.metrics import Floats, metrics
from mafunzo.errors import GateNotPassed

LOSS = [metrics()["loss"], metrics()["token_accuracy"]]


def rows(count: int, shift: float, noise: float = 0.02) -> tuple[Floats, Floats]:
    """Rows of very different length and difficulty, of which the tuned model takes `shift` a token."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(5, 200, count).astype(float)
    base = rng.normal(3.0, 0.8, count)
    tuned = base + shift + rng.normal(0, noise, count)
    return np.stack([base * tokens, tokens, 0.4 * tokens], 1), np.stack([tuned * tokens, tokens, 0.4 * tokens], 1)


def test_pairing_shows_a_difference_that_is_far_smaller_than_the_spread_of_the_rows() -> None:
    loss, _ = compare(LOSS, *rows(60, -0.02), seed=1)
    assert loss.is_better is True and loss.difference.high < 0
    assert loss.base.low < loss.tuned.value < loss.base.high


def test_a_worse_model_is_called_worse_and_an_equal_one_neither() -> None:
    worse, _ = compare(LOSS, *rows(60, +0.02), seed=1)
    assert worse.is_better is False
    _, accuracy = compare(LOSS, *rows(60, -0.02), seed=1)
    assert accuracy.is_better is None and accuracy.difference.value == 0


@pytest.mark.parametrize(
    ("count", "is_better"), [pytest.param(1, None), pytest.param(19, None), pytest.param(20, True)]
)
def test_no_row_or_a_few_make_a_model_better(count: int, is_better: bool | None) -> None:
    loss, _ = compare(LOSS, *rows(count, -1.0), seed=1)
    assert loss.difference.high < 0, "the interval leaves out zero, and would be taken for a proof"
    assert loss.is_better is is_better


def test_higher_is_better_where_it_is() -> None:
    base, tuned = rows(60, 0.0)
    tuned[:, 2] += 0.1 * tuned[:, 1]
    _, accuracy = compare(LOSS, base, tuned, seed=1)
    assert accuracy.is_better is True and accuracy.difference.low > 0


def test_resampled_sums_are_those_of_the_slow_obvious_way() -> None:
    base, tuned = rows(9, -0.1)
    row_counts = next(module._row_counts(9, 3, 200))
    slow = [sum(base[i, 0] for i, n in enumerate(c) for _ in range(int(n))) for c in row_counts]
    fast = module._resampled(np.stack([base, tuned]), 3, 200)
    assert fast.shape == (2, 200, 3)
    assert fast[0, :, 0] == pytest.approx(np.array(slow))


def test_chunks_of_resamples_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = rows(30, -0.1)
    whole = compare(LOSS, base, tuned, seed=4, resamples=500)
    monkeypatch.setattr(module, "CHUNK_CELLS", 30 * 37)
    assert compare(LOSS, base, tuned, seed=4, resamples=500) == whole


def test_intervals_hold_the_true_value_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        numerators = rng.exponential(2.0, 80)
        estimate = estimate_ratio(numerators, np.ones(80), seed=trial, resamples=400)
        hits += estimate.low <= 2.0 <= estimate.high
    assert 0.89 <= hits / 200 <= 0.985


def test_the_same_seed_gives_the_same_interval() -> None:
    base, tuned = rows(40, -0.1)
    assert compare(LOSS, base, tuned, seed=1) == compare(LOSS, base, tuned, seed=1)
    assert compare(LOSS, base, tuned, seed=1) != compare(LOSS, base, tuned, seed=2)


BASE = Estimate(3.0, 2.8, 3.2)


def compared(difference: Estimate, is_better: bool | None) -> dict[str, Comparison]:
    return {"loss": Comparison("loss", "Loss", False, BASE, BASE, difference, is_better, 50)}


BETTER = compared(Estimate(-0.2, -0.3, -0.1), True)
WORSE = compared(Estimate(0.2, 0.1, 0.3), False)
UNSURE = compared(Estimate(-0.01, -0.1, 0.1), None)


@pytest.mark.parametrize(
    ("demand", "comparisons", "passes"),
    [
        pytest.param("none", WORSE, True, id="no gate"),
        pytest.param("better", BETTER, True, id="better and shown"),
        pytest.param("better", UNSURE, False, id="better is not shown"),
        pytest.param("better", WORSE, False, id="worse"),
        pytest.param("not_worse", UNSURE, True, id="worse is not shown"),
        pytest.param("not_worse", WORSE, False, id="worse is shown"),
    ],
)
def test_the_gate_looks_at_the_interval(demand: str, comparisons: dict[str, Comparison], passes: bool) -> None:
    if passes:
        check_gate(demand, "loss", comparisons, None, None)  # type: ignore[arg-type]
        return
    with pytest.raises(GateNotPassed) as error:
        check_gate(demand, "loss", comparisons, None, None)  # type: ignore[arg-type]
    assert "loss: 3 -> 3, difference" in error.value.faults[0] and f"gate is {demand}" in error.value.faults[0]
    assert "set gate to none" in error.value.message


@pytest.mark.parametrize("demand", ["better", "not_worse"])
def test_no_gate_passes_by_too_few_rows(demand: str) -> None:
    few = {"loss": replace(BETTER["loss"], rows=19)}
    with pytest.raises(GateNotPassed, match=f"loss: measured on 19 rows, a gate needs 20 or more, .* gate is {demand}"):
        check_gate(demand, "loss", few, None, None)


@pytest.mark.parametrize(
    ("kl", "prompts"),
    [pytest.param(Estimate(0.1, 0.1, 0.1), 2, id="two prompts"), pytest.param(None, 0, id="none was measured")],
)
def test_no_limit_of_forgetting_passes_by_too_few_prompts(kl: Estimate | None, prompts: int) -> None:
    with pytest.raises(GateNotPassed, match=f"on {prompts} general prompts, gate_max_kl needs 20 or more"):
        check_gate("none", "loss", BETTER, 0.5, kl, prompts)


def test_a_model_that_moved_too_far_fails_whatever_its_loss() -> None:
    check_gate("better", "loss", BETTER, 0.5, Estimate(0.52, 0.48, 0.56))
    with pytest.raises(GateNotPassed, match=r"gate_max_kl is 0\.5"):
        check_gate("better", "loss", BETTER, 0.5, Estimate(0.6, 0.55, 0.65))
