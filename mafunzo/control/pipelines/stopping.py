"""Early termination of a sweep's trials that fall behind, and the choice of the best: pure functions of what they have logged.

The rules are Azure ML's (its documentation, "Hyperparameter tuning a model", early termination policies): each value of the
metric that a trial logs is an interval, and trials are compared over the same intervals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from mafunzo.entities.job import Step, StepStatus
from mafunzo.entities.sweep import EarlyTermination, Goal, Policy, Sweep

WORSE = "is worse than"  # what the reason of every trial that was ended for falling behind says
RULES = {
    Policy.MEDIAN: "the median of the trials' averages",
    Policy.BANDIT: "what the best trial's slack allows",
    Policy.TRUNCATION: "the worst that goes on",
}


@dataclass(frozen=True)
class Trial:
    """What is known of a trial. `values`: of the sweep's metric, in the order logged; None for one that isn't finite."""

    step: Step
    values: tuple[float | None, ...] = ()


def best_of(sweep: Sweep, trials: Sequence[Trial]) -> Trial | None:
    """Return the trial that is done whose last value is best, the first of several; None where none logged a finite one."""
    able = [trial for trial in trials if trial.step.status.is_done and trial.values and trial.values[-1] is not None]
    return min(able, key=lambda trial: _scores(sweep, trial)[-1], default=None)


def falling_behind(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, str]:
    """Return which trials that run are to be ended, each with the reason."""
    policy = sweep.early_termination
    if policy is None:
        return {}
    verdicts = {trial.step.name: _verdict(sweep, policy, trial, trials) for trial in trials}
    return {name: reason for name, reason in verdicts.items() if reason}


def _verdict(sweep: Sweep, policy: EarlyTermination, trial: Trial, trials: Sequence[Trial]) -> str:
    """Return why a trial is to be ended; an empty text if it goes on."""
    intervals = _intervals(policy, len(trial.values))
    if trial.step.status is not StepStatus.RUNNING or not intervals:
        return ""
    peers = [other for other in trials if len(other.values) >= intervals]
    if policy.policy is Policy.TRUNCATION:
        peers = [other for other in peers if not other.step.status.is_done]
    scores = [_scores(sweep, other)[:intervals] for other in peers]
    own, limit = _own_and_limit(sweep.goal, policy, _scores(sweep, trial)[:intervals], scores)
    if own <= limit or math.isclose(own, limit):
        return ""
    sign = _sign(sweep.goal)
    return f"{sweep.metric} {sign * own:g} after {intervals} values {WORSE} {sign * limit:g}, {RULES[policy.policy]}"


def _intervals(policy: EarlyTermination, logged: int) -> int:
    """Return over how many values a trial is compared: up to the last of its intervals that counts, 0 for none."""
    reached = logged - logged % policy.interval
    return reached if reached >= policy.delay else 0


def _own_and_limit(
    goal: Goal, policy: EarlyTermination, own: Sequence[float], peers: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """Return a trial's score and the worst that is allowed. `peers` has the scores of all that are compared, its own too."""
    match policy.policy:
        case Policy.MEDIAN:
            return min(own), median(fmean(peer) for peer in peers)
        case Policy.BANDIT:
            return min(own), _with_slack(goal, policy, min(min(peer) for peer in peers))
        case Policy.TRUNCATION:
            last = sorted(peer[-1] for peer in peers)
            count = len(last) - int(len(last) * policy.percent / 100)
            return own[-1], last[count - 1] if count else -math.inf


def _with_slack(goal: Goal, policy: EarlyTermination, best: float) -> float:
    if policy.slack_amount:
        return best + policy.slack_amount
    return best * (1 + policy.slack_factor) if goal is Goal.MINIMIZE else best / (1 + policy.slack_factor)


def _scores(sweep: Sweep, trial: Trial) -> list[float]:
    """Return a trial's values so that less is better, whatever the goal; one that isn't finite is the worst."""
    return [math.inf if value is None else _sign(sweep.goal) * value for value in trial.values]


def _sign(goal: Goal) -> int:
    return 1 if goal is Goal.MINIMIZE else -1
