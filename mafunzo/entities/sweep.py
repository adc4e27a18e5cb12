"""A sweep: one command run as many trials, each with other values of its parameters, and what is looked for among them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

DRAWN = "drawn"
"""The property of a trial whose values stay as they are, although it hasn't started: it goes on with one that has."""
BEST_TRIAL = "best_trial"
"""Under which the properties of a job, or of a step that is a sweep, name the trial that did best."""
BEST_VALUE = "best_value"
"""Under which the same properties keep the last value of the metric that it logged."""


class Goal(StrEnum):
    """Whether less or more of the metric is better."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


class Sampling(StrEnum):
    """How values are drawn: all combinations, at random, evenly spread at random, or where earlier trials did well."""

    GRID = "grid"
    RANDOM = "random"
    SOBOL = "sobol"
    BAYESIAN = "bayesian"


class Policy(StrEnum):
    """How a trial that does badly is told from one that doesn't."""

    MEDIAN = "median"
    BANDIT = "bandit"
    TRUNCATION = "truncation"


@dataclass(frozen=True)
class Distribution:
    """Where a parameter's values come from, with Azure ML's names and arguments.

    choice (its values) · randint (upper, exclusive) · uniform, loguniform (least, greatest) · normal, lognormal (mu, sigma).
    The log kinds are about the value's logarithm. With a q in front, a last argument is what values are multiples of.
    """

    kind: str
    arguments: tuple[str | int | float | bool, ...]

    @property
    def is_normal(self) -> bool:
        return self.kind.endswith("normal")

    @property
    def is_log(self) -> bool:
        return "log" in self.kind

    @property
    def quantum(self) -> float | None:
        """What values are multiples of, None for those that aren't rounded."""
        return float(self.arguments[-1]) if self.kind.startswith("q") else None


@dataclass(frozen=True)
class EarlyTermination:
    """When trials that do badly are ended: after every `interval` values of the metric, from the `delay`th on.

    slack_factor, slack_amount: how far behind the best one a trial may be (bandit), as a share of it or as it is.
    percent: how many of those that still run are ended, the worst ones (truncation).
    """

    policy: Policy
    interval: int = 1
    delay: int = 0
    slack_factor: float = 0.0
    slack_amount: float = 0.0
    percent: float = 0.0


@dataclass(frozen=True)
class Sweep:
    """What the trials of a job, or of a node of a pipeline, look for, and how.

    metric: the name under which trials log a number; the last one that a trial logs counts.
    space: parameter to where its values come from. seed: decides what is drawn; None until the job is planned.
    max_parallel: how many trials run side by side. timeout_s: of the whole sweep, 0 is for ever.
    """

    metric: str
    goal: Goal
    space: Mapping[str, Distribution]
    sampling: Sampling = Sampling.RANDOM
    max_trials: int = 1
    max_parallel: int = 1
    timeout_s: float = 0.0
    early_termination: EarlyTermination | None = None
    seed: int | None = None
    log_base: float = math.e

    @property
    def trial_count(self) -> int:
        """How many trials there will be: of a grid no more than it has points."""
        if self.sampling is not Sampling.GRID:
            return self.max_trials
        return min(self.max_trials, math.prod(len(choice.arguments) for choice in self.space.values()))
