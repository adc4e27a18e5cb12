"""The trials of a sweep: which values each gets, and the steps that run them.

Pure: the same sweep, with its seed, gives the same values. optuna draws all that isn't a grid; this is the only file that
imports it, and only when it is needed.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from statistics import NormalDist
from typing import TYPE_CHECKING

from mafunzo.entities.component import Component
from mafunzo.entities.job import Resources, Value
from mafunzo.entities.sweep import Distribution, Sampling, Sweep

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

TAIL = 1e-9
"""How near to impossible a value of a normal distribution may be: some 6 sigma."""
Values = dict[str, Value]


def draw(sweep: Sweep) -> list[Values]:
    """Return the values of each trial, at most `max_trials`; a grid's in the order in which its choices are written."""
    if sweep.sampling is Sampling.GRID:
        points = itertools.product(*(choice.arguments for choice in sweep.space.values()))
        return [dict(zip(sweep.space, point, strict=True)) for point in itertools.islice(points, sweep.max_trials)]
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=_sampler(sweep))
    axes = {name: _axis(distribution) for name, distribution in sweep.space.items()}
    drawn = (study.ask(axes).params for _ in range(sweep.max_trials))
    return [{name: _value(sweep, name, params[name]) for name in sweep.space} for params in drawn]


def with_trials(pipeline: Component, trials: Sequence[Mapping[str, Value]], resources: Resources) -> Component:
    """Return a pipeline of one node as one of many: `trial_0`, `trial_1`... , each with its values beside the node's inputs."""
    (node,) = pipeline.nodes.values()
    nodes = (
        replace(node, name=f"{node.name}_{number}", inputs={**node.inputs, **values}, resources=resources)
        for number, values in enumerate(trials)
    )
    return replace(pipeline, nodes={made.name: made for made in nodes})


def _sampler(sweep: Sweep) -> "BaseSampler":
    import optuna

    if sweep.sampling is Sampling.SOBOL:
        return optuna.samplers.QMCSampler(scramble=True, seed=sweep.seed)
    return optuna.samplers.RandomSampler(seed=sweep.seed)


def _axis(distribution: Distribution) -> "BaseDistribution":
    """Return what optuna draws: which choice, a whole number, the value or its logarithm, or a normal value's quantile."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if distribution.kind == "choice":
        return CategoricalDistribution(range(len(distribution.arguments)))
    if distribution.kind == "randint":
        return IntDistribution(0, int(distribution.arguments[0]) - 1)
    if distribution.is_normal:
        return FloatDistribution(TAIL, 1 - TAIL)
    return FloatDistribution(float(distribution.arguments[0]), float(distribution.arguments[1]))


def _value(sweep: Sweep, name: str, drawn: float) -> Value:
    """Return a parameter's value for what was drawn on its axis."""
    distribution = sweep.space[name]
    if distribution.kind == "choice":
        return distribution.arguments[int(drawn)]
    if distribution.kind == "randint":
        return int(drawn)
    value = drawn
    if distribution.is_normal:
        value = NormalDist(float(distribution.arguments[0]), float(distribution.arguments[1])).inv_cdf(drawn)
    if distribution.is_log:
        value = sweep.log_base**value
    return value if distribution.quantum is None else _rounded(value, distribution.quantum)


def _rounded(value: float, quantum: float) -> int | float:
    """Return the nearest multiple, a whole number for a whole quantum."""
    multiple = Decimal(str(quantum)) * round(value / quantum)
    return int(multiple) if quantum.is_integer() else float(multiple)
