"""Tests of `mafunzo.entities.sweep`: what the name of a distribution says of it."""

import pytest

from mafunzo.entities.sweep import Distribution, Goal, Sampling, Sweep


@pytest.mark.parametrize(
    ("kind", "arguments", "is_normal", "is_log", "quantum"),
    [
        ("uniform", (0, 1), False, False, None),
        ("quniform", (0, 1, 0.25), False, False, 0.25),
        ("loguniform", (-3, 0), False, True, None),
        ("normal", (0, 1), True, False, None),
        ("qlognormal", (0, 1, 2), True, True, 2.0),
        ("choice", ("a", "b"), False, False, None),
    ],
)
def test_a_distribution_is_what_its_name_says(
    kind: str, arguments: tuple[float, ...], is_normal: bool, is_log: bool, quantum: float | None
) -> None:
    distribution = Distribution(kind, arguments)
    assert (distribution.is_normal, distribution.is_log, distribution.quantum) == (is_normal, is_log, quantum)


def test_a_grid_has_no_more_trials_than_points() -> None:
    space = {"a": Distribution("choice", (1, 2)), "b": Distribution("choice", (1, 2, 3))}
    sweep = Sweep("loss", Goal.MINIMIZE, space, max_trials=5)
    counts = [Sweep("loss", Goal.MINIMIZE, space, Sampling.GRID, most).trial_count for most in (5, 1000)]
    assert (sweep.trial_count, counts) == (5, [5, 6])
