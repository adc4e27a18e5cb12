"""How long a run takes: what it has to do, what each part costs, and one formula over both.

    seconds  =  tokens x token_s  +  optimizer steps x step_s  +  validation tokens x validation_token_s  +  saves x save_s

Three know the costs, each better than the one before, and all use this formula: a rule of thumb before the first step
(announcement.py), a probe on real rows (probe.py), and the run itself once it has taken a few steps (`Pace`).
"""

import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mafunzo.compute.chat.examples import IGNORED
from mafunzo.compute.training.batch import Rows, Sequences
from mafunzo.compute.training.data_order import DataOrder
from mafunzo.compute.training.run import Run
from mafunzo.compute.training.validation import is_due


@dataclass(frozen=True)
class Work:
    """What is to be done: tokens to train on, optimizer steps, evaluations and their tokens, and saved checkpoints.

    saves: those of evaluations, or the one at the end. save_interval_s: how far apart checkpoints are at most; 0: each step.
    """

    tokens: int
    steps: int
    evaluations: int
    validation_tokens: int
    saves: int
    save_interval_s: float


@dataclass(frozen=True)
class Costs:
    """Seconds of a token's forward and backward pass, an optimizer step, a validation token, and a saved checkpoint."""

    token_s: float
    step_s: float
    validation_token_s: float
    save_s: float


def work_of(run: Run) -> Work:
    """Return the work of a whole run, without early stopping."""
    evaluations = len(evaluated_steps(run))
    validation_tokens = run.validation_rows.tokens if run.validation_rows is not None else 0
    return Work(
        tokens=trained_through(run.rows, run.order),
        steps=run.order.total_steps,
        evaluations=evaluations,
        validation_tokens=evaluations * validation_tokens,
        saves=evaluations or 1,
        save_interval_s=run.arguments.save_interval_s,
    )


def evaluated_steps(run: Run) -> list[int]:
    """Return after which steps a run is evaluated, in their order."""
    if run.validation_rows is None:
        return []
    return [step for step in range(1, run.order.total_steps + 1) if is_due(step, run.arguments, run.order)]


def trained_through(rows: Rows, order: DataOrder) -> int:
    """Return how many tokens all steps go through, rows as often as they come."""
    tokens = np.add.reduce([_row_tokens(column) for column in rows.sequences])
    epochs, rest = divmod(order.total_steps, order.steps_per_epoch)
    first = epochs * order.steps_per_epoch
    return epochs * int(tokens.sum()) + sum(int(tokens[order.rows_of(first + step)].sum()) for step in range(rest))


def _row_tokens(column: Sequences) -> NDArray[np.int64]:
    """Return the tokens of each row that a batch counts: those up to the last trained one (`pack`)."""
    starts = column.bounds[:-1]
    places = np.where(column.labels != IGNORED, np.arange(len(column.labels)), 0)
    last: NDArray[np.int64] = np.maximum(np.maximum.reduceat(places, starts) - starts, 0)
    return last + 1


def seconds(work: Work, costs: Costs) -> float:
    """Return how long the work takes."""
    training_s = work.tokens * costs.token_s + work.steps * costs.step_s
    validating_s = work.validation_tokens * costs.validation_token_s
    total_s = training_s + validating_s + work.saves * costs.save_s
    return total_s + _saves_by_the_clock(work, total_s) * costs.save_s


def _saves_by_the_clock(work: Work, total_s: float) -> int:
    """Return how many checkpoints are saved beside those of evaluations: where these are further apart than the interval."""
    others = max(work.steps - work.saves, 0)
    if work.save_interval_s <= 0:
        return others
    return min(others, work.saves * int(total_s / max(work.saves, 1) / work.save_interval_s))


class Pace:
    """What a run's parts have cost so far, and so how long the rest will take.

    The first step also prepares the library's code: it counts only until there is another.
    """

    def __init__(self, run: Run, costs: Costs) -> None:
        """costs: what is expected of the parts that weren't measured yet."""
        self._work, self._evaluated, self._expected = work_of(run), evaluated_steps(run), costs
        self._validation_rows = run.validation_rows
        self._n_steps = 0
        self._step_tokens, self._steps_s = 0, 0.0
        self._n_evaluations, self._evaluations_s = 0, 0.0
        self._n_saves, self._saves_s = 0, 0.0

    def add_step(self, n_tokens: int, taken_s: float) -> None:
        """Count an optimizer step, with all its passes."""
        self._n_steps += 1
        if self._n_steps == 2:
            self._step_tokens, self._steps_s = 0, 0.0
        self._step_tokens += n_tokens
        self._steps_s += taken_s

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Count the time that passes as an evaluation's."""
        begun = time.monotonic()
        yield
        self._n_evaluations += 1
        self._evaluations_s += time.monotonic() - begun

    @contextmanager
    def save(self) -> Iterator[None]:
        """Count the time that passes as that of a saved checkpoint."""
        begun = time.monotonic()
        yield
        self._n_saves += 1
        self._saves_s += time.monotonic() - begun

    @property
    def costs(self) -> Costs:
        """What the parts cost, as far as they were measured; an optimizer step's own part is in that of its tokens."""
        costs = self._expected
        if self._step_tokens:
            token_s = self._steps_s / self._step_tokens
            validation_token_s = token_s * costs.validation_token_s / costs.token_s
            costs = replace(costs, token_s=token_s, step_s=0.0, validation_token_s=validation_token_s)
        if self._n_evaluations and self._validation_rows is not None:
            validation_token_s = self._evaluations_s / self._n_evaluations / self._validation_rows.tokens
            costs = replace(costs, validation_token_s=validation_token_s)
        if self._n_saves:
            costs = replace(costs, save_s=self._saves_s / self._n_saves)
        return costs

    def remaining_s(self, step: int, tokens: int) -> float:
        """Return how long what follows after `step` steps and `tokens` tokens takes, evaluation and saving counted in."""
        work = self._work
        evaluations = len(self._evaluated) - bisect_right(self._evaluated, step)
        share = evaluations / work.evaluations if work.evaluations else 0.0
        rest = replace(
            work,
            tokens=max(work.tokens - tokens, 0),
            steps=work.steps - step,
            evaluations=evaluations,
            validation_tokens=round(work.validation_tokens * share),
            saves=evaluations if work.evaluations else work.saves,
        )
        return seconds(rest, self.costs)
