"""What trials are given, against the distributions' own definitions."""

import math
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any

import pytest

from mafunzo.control.pipelines.stopping import Trial
from mafunzo.control.pipelines.sweep import draw, is_undrawn, seeded, suggest, sweep_of, with_trials
from mafunzo.entities.component import Component, Node
from mafunzo.entities.job import Job, LiteralInput, Resources, Step, StepSpec, StepStatus, Value
from mafunzo.entities.sweep import DRAWN, Distribution, Goal, Sampling, Sweep


def sweep(sampling: Sampling = Sampling.RANDOM, count: int = 400, **space: Distribution) -> Sweep:
    return Sweep("loss", Goal.MINIMIZE, space, sampling, max_trials=count, seed=1)


def drawn(kind: str, *arguments: Value, sampling: Sampling = Sampling.RANDOM) -> list[float]:
    found = [values["x"] for values in draw(sweep(sampling, x=Distribution(kind, arguments)))]
    assert all(isinstance(value, int | float) for value in found)
    return [float(value) for value in found]


def test_a_grid_is_all_combinations_in_the_order_written() -> None:
    space = {"a": Distribution("choice", (1, 2)), "b": Distribution("choice", ("x", "y"))}
    assert [tuple(values.values()) for values in draw(sweep(Sampling.GRID, **space))] == [
        (1, "x"),
        (1, "y"),
        (2, "x"),
        (2, "y"),
    ]
    assert len(draw(sweep(Sampling.GRID, count=3, **space))) == 3


@pytest.mark.parametrize("sampling", [Sampling.RANDOM, Sampling.SOBOL])
def test_the_seed_decides(sampling: Sampling) -> None:
    asked = sweep(sampling, count=5, x=Distribution("uniform", (0, 1)), y=Distribution("choice", (1, 2, 3)))
    assert draw(asked) == draw(asked) != draw(replace(asked, seed=2))


def test_a_choice_gives_its_values_as_they_are() -> None:
    found = draw(sweep(x=Distribution("choice", ("a", 1, 0.5, True))))
    assert {type(values["x"]) for values in found} == {str, int, float, bool}


@pytest.mark.parametrize(
    ("kind", "arguments", "least", "greatest"),
    [
        pytest.param("randint", (5,), 0, 4, id="randint: the upper bound is out"),
        pytest.param("uniform", (2, 3), 2, 3, id="uniform"),
        pytest.param("loguniform", (-3, 0), math.exp(-3), 1, id="loguniform is about the logarithm"),
        pytest.param("quniform", (0, 10, 2), 0, 10, id="quniform"),
        pytest.param("qloguniform", (0, 3, 1), 1, 20, id="qloguniform"),
    ],
)
def test_values_lie_within_their_bounds(kind: str, arguments: tuple[Value, ...], least: float, greatest: float) -> None:
    found = drawn(kind, *arguments)
    width = greatest - least
    assert least <= min(found) <= least + width / 20 and greatest - width / 20 <= max(found) <= greatest


@pytest.mark.parametrize("sampling", [Sampling.RANDOM, Sampling.SOBOL])
def test_normal_values_have_their_mean_and_spread(sampling: Sampling) -> None:
    found = drawn("normal", 5, 2, sampling=sampling)
    assert fmean(found) == pytest.approx(5, abs=0.3) and pstdev(found) == pytest.approx(2, abs=0.3)
    logarithms = [math.log(value) for value in drawn("lognormal", 5, 2, sampling=sampling)]
    assert fmean(logarithms) == pytest.approx(5, abs=0.3) and pstdev(logarithms) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("kind", ["quniform", "qnormal", "qloguniform", "qlognormal"])
def test_rounded_values_are_multiples(kind: str) -> None:
    assert {type(values["x"]) for values in draw(sweep(x=Distribution(kind, (1, 2, 3.0))))} == {int}
    assert all(value % 3 == 0 for value in drawn(kind, 1, 2, 3))
    assert all(value == round(value, 2) for value in drawn(kind, 1, 2, 0.05))


def test_logarithms_have_the_base_that_was_asked_for() -> None:
    asked = replace(sweep(x=Distribution("loguniform", (2, 2))), log_base=10.0, max_trials=1)
    assert draw(asked) == [{"x": 100}]


ALL = {
    "choice": Distribution("choice", ("a", "b", "c")),
    "whole": Distribution("randint", (20,)),
    "flat": Distribution("uniform", (-1, 3)),
    "log": Distribution("loguniform", (-5, -1)),
    "normal": Distribution("normal", (5, 2)),
    "lognormal": Distribution("lognormal", (0, 1)),
    "rounded": Distribution("qlognormal", (-3, 0.1, 1)),
}


def trial(values: dict[str, Any], *logged: float, status: StepStatus = StepStatus.COMPLETED) -> Trial:
    spec = StepSpec("t", "c:1", "", "", {name: LiteralInput(value) for name, value in values.items()})
    return Trial(Step("j", spec, status, attempt=1), logged)


def test_a_bayesian_sweep_finds_what_is_good() -> None:
    def loss(values: dict[str, Any]) -> float:
        return abs(values["flat"] - 2) + abs(values["normal"] - 8) + (0 if values["choice"] == "b" else 2)

    asked, trials = sweep(Sampling.BAYESIAN, **ALL), []
    for _ in range(60):
        values = suggest(asked, trials)
        assert values == suggest(asked, trials)
        trials.append(trial(values, 99.0, loss(values)))
    losses = [one.values[-1] for one in trials]
    assert fmean(losses[-20:]) < fmean(losses[:10]) / 2
    assert [one.step.spec.literals["choice"] for one in trials[-20:]].count("b") > 10


def test_a_trial_that_runs_failed_or_was_silent_suggests_nothing() -> None:
    asked = sweep(Sampling.BAYESIAN, **ALL)
    values = suggest(asked, [])
    done = [trial(values, float(number)) for number in range(12)]
    mute = [trial(values, 0.0, status=StepStatus.RUNNING), trial(values, 0.0, status=StepStatus.FAILED), trial(values)]
    assert suggest(asked, [*done, *mute]) == suggest(asked, [*done, *[trial(values)] * 3])


def test_each_trial_is_a_step_with_its_values() -> None:
    node = Node("trial", "command", inputs={"data": "${{parent.inputs.data}}"}, timeout_s=9)
    pipeline = Component("p", "1", "pipeline", nodes={"trial": node})
    made = with_trials(pipeline, [{"x": 1}, {"x": 2}], Resources(cpus=3)).nodes
    assert list(made) == ["trial_0", "trial_1"]
    assert made["trial_1"] == Node(
        "trial_1",
        "command",
        inputs={"data": "${{parent.inputs.data}}", "x": 2},
        timeout_s=9,
        resources=Resources(cpus=3),
    )


@pytest.mark.parametrize(
    ("sampling", "attempt", "properties", "expected"),
    [
        pytest.param(Sampling.BAYESIAN, 0, {}, True, id="when it starts"),
        pytest.param(Sampling.BAYESIAN, 1, {}, False, id="it has started"),
        pytest.param(Sampling.BAYESIAN, 0, {DRAWN: True}, False, id="it goes on with one that has"),
        pytest.param(Sampling.RANDOM, 0, {}, False, id="all are drawn at once"),
    ],
)
def test_only_a_bayesian_trial_is_drawn_when_it_starts(
    sampling: Sampling, attempt: int, properties: dict[str, Any], expected: bool
) -> None:
    step = Step("j", StepSpec("trial_0", "c:1", "", ""), attempt=attempt, properties=properties)
    assert is_undrawn(step, sweep(sampling)) is expected


def test_a_seed_that_is_given_stays_and_another_follows_from_the_space() -> None:
    space = Distribution("uniform", (0, 1))
    assert seeded(sweep(x=space)).seed == 1
    one, other = (seeded(replace(sweep(**{name: space}), seed=None)).seed for name in ("x", "y"))
    assert one is not None and one != other and one == seeded(replace(sweep(x=space), seed=None, max_trials=3)).seed


def test_a_step_is_a_trial_of_the_job_or_of_the_step_that_it_names() -> None:
    whole, node = sweep(x=Distribution("uniform", (0, 1))), sweep(y=Distribution("uniform", (0, 1)))
    steps = [Step("j", StepSpec(f"look.{n}", "c:1", "", "", trial_of="look")) for n in range(2)]
    steps += [Step("j", StepSpec("look", "c:1", "", "", sweep=node)), Step("j", StepSpec("a", "c:1", "", ""))]
    job = Job("j", "", "", "c:1")
    assert sweep_of(job, steps[0], steps) == (node, steps[:2])
    assert [sweep_of(job, step, steps)[0] for step in steps[2:]] == [None, None]
    assert sweep_of(replace(job, sweep=whole), steps[3], steps[3:]) == (whole, steps[3:])
