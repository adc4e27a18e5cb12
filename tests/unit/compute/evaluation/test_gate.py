import pytest

from mafunzo.compute.evaluation.compare import Comparison, Estimate
from mafunzo.compute.evaluation.gate import check_gate
from mafunzo.errors import GateNotPassed

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


def test_a_model_that_moved_too_far_fails_whatever_its_loss() -> None:
    check_gate("better", "loss", BETTER, 0.5, Estimate(0.52, 0.48, 0.56))
    with pytest.raises(GateNotPassed, match=r"gate_max_kl is 0\.5"):
        check_gate("better", "loss", BETTER, 0.5, Estimate(0.6, 0.55, 0.65))
