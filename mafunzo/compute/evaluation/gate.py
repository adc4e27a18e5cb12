"""The quality gate: what a tuned model's confidence intervals must show before the pipeline goes on."""

from collections.abc import Mapping

from mafunzo.compute.evaluation.compare import Comparison, Estimate
from mafunzo.errors import Faults, GateNotPassed


def check_gate(
    demand: str, metric: str, comparisons: Mapping[str, Comparison], max_kl: float | None, kl: Estimate | None
) -> None:
    """Raise `GateNotPassed` unless the demands hold.

    better: the difference's interval lies wholly on the better side of zero. not_worse: it doesn't lie wholly on the
    worse side. max_kl: the lower bound of KL(base || tuned) on general prompts is at most this.
    """
    faults = Faults()
    if demand != "none":
        faults.add(_demand_fault(demand, comparisons[metric]))
    if max_kl is not None and kl is not None and kl.low > max_kl:
        faults.add(
            f"KL to the base on general prompts is {kl.value:.4g} ({kl.low:.4g} to {kl.high:.4g}), gate_max_kl is {max_kl:g}."
        )
    faults.require_none(
        "The tuned model didn't pass the gate. Train on more or better data, change the learning rate or the epochs, "
        "or set gate to none to go on regardless.",
        GateNotPassed,
    )


def _demand_fault(demand: str, comparison: Comparison) -> str:
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
