"""Whether a worker finds the same tokens the likeliest as the tuned model did, which is what greedy decoding takes. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mafunzo.control.serving.reference import Reference

Top = Mapping[int, float]
"""The log-probabilities of the likeliest tokens in one place, two of them at least, and of the token that stands there."""


@dataclass(frozen=True)
class Disagreement:
    """Where the worker's likeliest token isn't evaluation's. gap: by how much it finds its own the likelier, at least."""

    row: int
    position: int
    expected: int
    actual: int
    gap: float


@dataclass(frozen=True)
class Agreement:
    """Over all tokens of the last answers. widest: the disagreement with the largest gap, None without any."""

    positions: int
    equal: int
    widest: Disagreement | None = None


def agreement(reference: Reference, worker_tops: Sequence[Sequence[Top | None] | None]) -> Agreement | None:
    """Compare the likeliest tokens of each row; None where the reference or the worker doesn't tell them all.

    Tokens that the worker finds equally likely count as equal.
    """
    if any(row.greedy_ids is None for row in reference.rows) or any(tops is None for tops in worker_tops):
        return None
    positions, disagreements = 0, []
    for row, position, expected, top in _positions(reference, worker_tops):
        positions += 1
        actual, gap = _choice(top, expected)
        if actual != expected:
            disagreements.append(Disagreement(row, position, expected, actual, gap))
    widest = max(disagreements, key=lambda one: one.gap, default=None)
    return Agreement(positions, positions - len(disagreements), widest)


def _positions(
    reference: Reference, worker_tops: Sequence[Sequence[Top | None] | None]
) -> Iterator[tuple[int, int, int, Top]]:
    for number, (row, tops) in enumerate(zip(reference.rows, worker_tops, strict=True)):
        for position, (expected, top) in enumerate(zip(row.greedy_ids or (), tops or (), strict=True)):
            if expected is not None:
                yield number, position, expected, top or {}


def _choice(top: Top, expected: int) -> tuple[int, float]:
    """Return the token that greedy decoding takes, and how much likelier than `expected` it is at least."""
    values = sorted((value for value in top.values() if math.isfinite(value)), reverse=True)
    if not values:
        return -1, 0.0
    best = values[0]
    if top.get(expected) == best:
        return expected, 0.0
    second = values[min(1, len(values) - 1)]
    actual = next(token for token, value in top.items() if value == best)
    return actual, best - top.get(expected, second)
