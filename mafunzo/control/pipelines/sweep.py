"""The trials of a sweep: which values each gets, and the steps that run them.

Pure: the same sweep, with its seed, gives the same values. optuna draws all that isn't a grid; this is the only file that
imports it, and only when it is needed.
"""

import hashlib
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from statistics import NormalDist
from typing import TYPE_CHECKING

from mafunzo.control.pipelines.stopping import Trial
from mafunzo.entities.component import Component
from mafunzo.entities.job import Job, Resources, Step, Value
from mafunzo.entities.sweep import DRAWN, Distribution, Sampling, Sweep

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

TAIL = 1e-9
"""How near to impossible a value of a normal distribution may be: some 6 sigma."""
Values = dict[str, Value]


def draw(sweep: Sweep) -> list[Values]:
    """Return the values of each trial, at most `max_trials`; a grid's in the order in which its choices are written.

    Of a Bayesian sweep these are at random, until `suggest` knows better.
    """
    if sweep.sampling is Sampling.GRID:
        points = itertools.product(*(choice.arguments for choice in sweep.space.values()))
        return [dict(zip(sweep.space, point, strict=True)) for point in itertools.islice(points, sweep.max_trials)]
    study = _study(sweep, 0)
    return [_ask(sweep, study) for _ in range(sweep.max_trials)]


def suggest(sweep: Sweep, trials: Sequence[Trial]) -> Values:
    """Return the values of the next trial of a Bayesian sweep, from what the others have logged: near where that was good.

    The sampler is TPE (Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011), after ten trials at random.
    """
    from optuna.trial import create_trial

    study = _study(sweep, sum(trial.step.attempt > 0 or trial.step.status.is_done for trial in trials))
    axes = _axes(sweep)
    for trial in trials:
        if trial.step.status.is_done and trial.values and trial.values[-1] is not None:
            params = {name: _drawn(sweep, name, trial.step.spec.literals[name]) for name in sweep.space}
            study.add_trial(create_trial(params=params, distributions=axes, value=trial.values[-1]))
    return _ask(sweep, study)


def with_trials(pipeline: Component, trials: Sequence[Mapping[str, Value]], resources: Resources) -> Component:
    """Return a pipeline of one node as one of many: `trial_0`, `trial_1`... , each with its values beside the node's inputs."""
    (node,) = pipeline.nodes.values()
    nodes = (
        replace(node, name=f"{node.name}_{number}", inputs={**node.inputs, **values}, resources=resources)
        for number, values in enumerate(trials)
    )
    return replace(pipeline, nodes={trial.name: trial for trial in nodes})


def seeded(sweep: Sweep) -> Sweep:
    """Return a sweep with a seed that follows from what is drawn, where it has none: drawn again, its trials are the same.

    Limits don't count, so that a sweep with more trials begins with those that it had.
    """
    if sweep.seed is not None:
        return sweep
    drawn = repr((sorted(sweep.space.items()), sweep.sampling, sweep.log_base))
    return replace(sweep, seed=int(hashlib.sha256(drawn.encode()).hexdigest(), 16) % 2**31)


def is_undrawn(trial: Step, sweep: Sweep) -> bool:
    """Return whether a trial's values are still to be drawn, from what those before it have logged."""
    return sweep.sampling is Sampling.BAYESIAN and not trial.attempt and not trial.properties.get(DRAWN)


def sweeps_of(job: Job, steps: Iterable[Step]) -> dict[str, Sweep]:
    """Return the sweeps of a job by the steps that end them; one that is the job itself by an empty name."""
    own = {} if job.sweep is None else {"": job.sweep}
    return own | {step.name: step.spec.sweep for step in steps if step.spec.sweep is not None}


def sweep_of(job: Job, step: Step, steps: Iterable[Step]) -> tuple[Sweep | None, list[Step]]:
    """Return the sweep that a step is a trial of, None where it is of none, and all trials of it among the job's steps."""
    steps = list(steps)
    trials = [one for one in steps if one.spec.trial_of == step.spec.trial_of]
    return sweeps_of(job, steps).get(step.spec.trial_of), trials


def _study(sweep: Sweep, number: int) -> "Study":
    """Return what draws; `number` is how many trials have started, so that none is drawn as the one before it was."""
    import optuna

    seed = sweep.seed
    assert seed is not None, "a sweep that is planned has a seed"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers: dict[Sampling, Callable[[], optuna.samplers.BaseSampler]] = {
        Sampling.RANDOM: lambda: optuna.samplers.RandomSampler(seed=seed),
        Sampling.SOBOL: lambda: optuna.samplers.QMCSampler(scramble=True, seed=seed),
        Sampling.BAYESIAN: lambda: optuna.samplers.TPESampler(seed=(seed + number) % 2**32),
    }
    return optuna.create_study(direction=sweep.goal.value, sampler=samplers[sweep.sampling]())


def _ask(sweep: Sweep, study: "Study") -> Values:
    params = study.ask(_axes(sweep)).params
    return {name: _value(sweep, name, params[name]) for name in sweep.space}


def _axes(sweep: Sweep) -> "dict[str, BaseDistribution]":
    """Return what optuna draws for each parameter: which choice, a whole number, or a number between bounds."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    axes: dict[str, BaseDistribution] = {}
    for name, distribution in sweep.space.items():
        low, high = _bounds(distribution)
        match distribution.kind:
            case "choice":
                axes[name] = CategoricalDistribution(range(len(distribution.arguments)))
            case "randint":
                axes[name] = IntDistribution(int(low), int(high))
            case _:
                axes[name] = FloatDistribution(low, high)
    return axes


def _bounds(distribution: Distribution) -> tuple[float, float]:
    """Return between what is drawn: the number of a choice, a value or its logarithm, or a normal value's quantile."""
    if distribution.kind == "choice":
        return 0, len(distribution.arguments) - 1
    if distribution.kind == "randint":
        return 0, int(distribution.arguments[0]) - 1
    if distribution.is_normal:
        return TAIL, 1 - TAIL
    return float(distribution.arguments[0]), float(distribution.arguments[1])


def _value(sweep: Sweep, name: str, drawn: float) -> Value:
    """Return a parameter's value for what was drawn on its axis."""
    distribution = sweep.space[name]
    if distribution.kind == "choice":
        return distribution.arguments[int(drawn)]
    if distribution.kind == "randint":
        return int(drawn)
    value = drawn
    if distribution.is_normal:
        value = _normal(distribution).inv_cdf(drawn)
    if distribution.is_log:
        value = sweep.log_base**value
    return value if distribution.quantum is None else _rounded(value, distribution.quantum)


def _drawn(sweep: Sweep, name: str, value: Value) -> float:
    """Return what was drawn for a value, as near as rounding left it: the inverse of `_value`."""
    distribution = sweep.space[name]
    if distribution.kind == "choice":
        return distribution.arguments.index(value)
    drawn = float(value)
    if distribution.is_log:
        drawn = math.log(max(drawn, sys.float_info.min), sweep.log_base)
    if distribution.is_normal:
        drawn = _normal(distribution).cdf(drawn)
    low, high = _bounds(distribution)
    return min(max(drawn, low), high)


def _normal(distribution: Distribution) -> NormalDist:
    return NormalDist(float(distribution.arguments[0]), float(distribution.arguments[1]))


def _rounded(value: float, quantum: float) -> int | float:
    """Return the nearest multiple, a whole number for a whole quantum."""
    multiple = Decimal(str(quantum)) * round(value / quantum)
    return int(multiple) if quantum.is_integer() else float(multiple)
