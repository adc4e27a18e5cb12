"""Which trials are ended early and which is the best, without a process."""

from typing import Any

import pytest

from mafunzo.control.pipelines.stopping import Trial, best_of, falling_behind
from mafunzo.entities.job import Step, StepSpec, StepStatus
from mafunzo.entities.sweep import EarlyTermination, Goal, Policy, Sweep

RUNNING, COMPLETED, CANCELED, FAILED = (
    StepStatus.RUNNING,
    StepStatus.COMPLETED,
    StepStatus.CANCELED,
    StepStatus.FAILED,
)


def sweep(goal: Goal = Goal.MINIMIZE, policy: EarlyTermination | None = None) -> Sweep:
    return Sweep(metric="loss", goal=goal, space={}, early_termination=policy)


def trial(name: str, *values: float | None, status: StepStatus = RUNNING) -> Trial:
    return Trial(Step("j", StepSpec(name, "c:1", "", ""), status), values)


def median(**more: Any) -> EarlyTermination:
    return EarlyTermination(Policy.MEDIAN, **more)


def bandit(**more: Any) -> EarlyTermination:
    return EarlyTermination(Policy.BANDIT, **more)


def truncation(percent: float, **more: Any) -> EarlyTermination:
    return EarlyTermination(Policy.TRUNCATION, percent=percent, **more)


def ended(policy: EarlyTermination, *trials: Trial, goal: Goal = Goal.MINIMIZE) -> list[str]:
    return list(falling_behind(sweep(goal, policy), trials))


@pytest.mark.parametrize(
    ("policy", "trials", "expected"),
    [
        pytest.param(median(), [trial("a", 1), trial("b", 2), trial("c", 9)], ["c"], id="worse than the median"),
        pytest.param(median(), [trial("a", 9)], [], id="alone"),
        pytest.param(median(), [trial("a", 0.1, 0.1, 0.1), trial("b", 0.1, 0.1, 0.1)], [], id="all equal"),
        pytest.param(median(), [trial("a", 1), trial("b", 5, status=COMPLETED)], [], id="what has ended stays"),
        pytest.param(median(), [trial("a", 9), trial("b", 1, status=COMPLETED)], ["a"], id="what has ended counts"),
        pytest.param(median(), [trial("a", 9), trial("b", 1, status=CANCELED)], ["a"], id="what was ended counts"),
        pytest.param(median(), [trial("a", 9), trial("b")], [], id="what has logged nothing doesn't count"),
        pytest.param(median(), [trial("a", 9, 1), trial("b", 2, 2)], [], id="its best value counts"),
        pytest.param(median(), [trial("a", 9, 8), trial("b", 1)], [], id="over as many values"),
        pytest.param(median(), [trial("a", None), trial("b", 1), trial("c", 1)], ["a"], id="not finite is the worst"),
        pytest.param(median(delay=3), [trial("a", 9, 9), trial("b", 1, 1)], [], id="before the delay"),
        pytest.param(median(delay=3), [trial("a", 9, 9, 9), trial("b", 1, 1, 1)], ["a"], id="after the delay"),
        pytest.param(median(interval=2), [trial("a", 9), trial("b", 1)], [], id="between intervals"),
        pytest.param(median(interval=2), [trial("a", 9, 9, 0), trial("b", 1, 1)], ["a"], id="up to the last interval"),
        pytest.param(bandit(slack_factor=0.2), [trial("a", 1), trial("b", 1.1), trial("c", 1.3)], ["c"], id="factor"),
        pytest.param(bandit(slack_amount=2), [trial("a", 1), trial("b", 2.9), trial("c", 3.1)], ["c"], id="amount"),
        pytest.param(bandit(slack_amount=0.2), [trial("a", 1.2), trial("b", 1)], [], id="just on the limit"),
        pytest.param(
            truncation(50), [trial("a", 1), trial("b", 2), trial("c", 3), trial("d", 4)], ["c", "d"], id="half"
        ),
        pytest.param(truncation(20), [trial("a", 1), trial("b", 2)], [], id="a fifth of two is none"),
        pytest.param(
            truncation(50), [trial("a", 1), trial("b", 9, status=CANCELED)], [], id="those it ended stay its share"
        ),
        pytest.param(
            truncation(50),
            [trial("a", 2), trial("b", 3), trial("c", 9, status=COMPLETED)],
            ["b"],
            id="of those that run",
        ),
        pytest.param(truncation(50), [trial("a", 0, 5), trial("b", 4, 4)], ["a"], id="by the value of now"),
    ],
)
def test_who_is_ended_where_less_is_better(policy: EarlyTermination, trials: list[Trial], expected: list[str]) -> None:
    assert ended(policy, *trials) == expected


@pytest.mark.parametrize(
    ("policy", "trials", "expected"),
    [
        pytest.param(median(), [trial("a", 1), trial("b", 2), trial("c", 9)], ["a"], id="median"),
        pytest.param(
            bandit(slack_factor=0.2), [trial("a", 0.8), trial("b", 0.67), trial("c", 0.66)], ["c"], id="factor"
        ),
        pytest.param(
            bandit(slack_amount=0.1), [trial("a", 0.8), trial("b", 0.71), trial("c", 0.69)], ["c"], id="amount"
        ),
        pytest.param(truncation(50), [trial("a", 1), trial("b", 2)], ["a"], id="truncation"),
    ],
)
def test_who_is_ended_where_more_is_better(policy: EarlyTermination, trials: list[Trial], expected: list[str]) -> None:
    assert ended(policy, *trials, goal=Goal.MAXIMIZE) == expected


def test_nobody_is_ended_without_a_policy() -> None:
    assert falling_behind(sweep(), [trial("a", 1), trial("b", 9)]) == {}


def test_the_reason_says_how_far_behind_in_the_metric_s_own_sign() -> None:
    told = falling_behind(sweep(Goal.MAXIMIZE, median()), [trial("a", 0.5, 0.7), trial("b", 0.1, 0.2)])
    assert told == {"b": "loss 0.2 after 2 values is worse than 0.375, the median of the trials' averages"}


@pytest.mark.parametrize(
    ("trials", "goal", "expected"),
    [
        pytest.param(
            [trial("a", 2, status=COMPLETED), trial("b", 1, status=COMPLETED)], Goal.MINIMIZE, "b", id="least"
        ),
        pytest.param([trial("a", 2, status=COMPLETED), trial("b", 1, status=COMPLETED)], Goal.MAXIMIZE, "a", id="most"),
        pytest.param(
            [trial("a", 0, 5, status=COMPLETED), trial("b", 4, status=COMPLETED)],
            Goal.MINIMIZE,
            "b",
            id="the last value",
        ),
        pytest.param(
            [trial("a", 1, status=COMPLETED), trial("b", 1, status=COMPLETED)], Goal.MINIMIZE, "a", id="first"
        ),
        pytest.param(
            [trial("a", 1, status=FAILED), trial("b", 9, status=COMPLETED)], Goal.MINIMIZE, "b", id="only done"
        ),
        pytest.param([trial("a", 1, None, status=COMPLETED)], Goal.MINIMIZE, None, id="none is finite"),
        pytest.param([trial("a", status=COMPLETED)], Goal.MINIMIZE, None, id="nothing was logged"),
        pytest.param([], Goal.MINIMIZE, None, id="no trial"),
    ],
)
def test_the_best(trials: list[Trial], goal: Goal, expected: str | None) -> None:
    found = best_of(sweep(goal), trials)
    assert (found.step.name if found else None) == expected
