"""Data order: which rows each optimizer step trains on, and in how many forward passes (gradient accumulation).

The idea: shuffling is a permutation of the rows for each epoch, which only the seed and the epoch decide, and the rows of
a step are a slice of it.

    epoch 0, shuffled by (seed, 0):    7 2 9 0 | 4 1 8 3 | 6 5      10 rows, 4 a step
                                       step 0    step 1    step 2   an epoch's last step has what is left
    epoch 1, shuffled by (seed, 1):    3 8 0 6 | ...
                                       step 3

    step 1 in two forward passes:      4 1 | 8 3                    gradients of both are added up, then one optimizer step

`load_steps` is the data loader: it makes the packed batches of each step, ahead of the training loop if there are threads.
Where several processes train (ranks.py), each makes those of its share of the step's rows:

    step 1 of two processes:           4 8 | 1 3                    each about as many tokens; gradients are added up too

The invariant: the rows of step n follow from n alone. So a run that resumes has no data loader to wind forward, batches can
be made ahead by any number of threads, and the size of a forward pass, which the memory decides (memory_plan.py), changes no
step's rows, nor does the number of processes.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mafunzo.compute.training.batch import Batch, Row, Rows, pack
from mafunzo.compute.training.ranks import ALONE, Ranks


@lru_cache(maxsize=2)
def permutation(n_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the shuffled rows of an epoch (from 0): a permutation that only seed and epoch decide."""
    return np.random.default_rng([seed, epoch]).permutation(n_rows)


@dataclass(frozen=True)
class DataOrder:
    """Which rows each optimizer step trains on.

    batch, accumulation: a step has as many rows as their product, the effective batch; an epoch's last step may have fewer.
    epochs: passes over the rows; a part of one is rounded up to whole steps.
    """

    n_rows: int
    batch: int
    accumulation: int
    epochs: float
    max_steps: int
    seed: int

    @property
    def rows_per_step(self) -> int:
        return self.batch * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n_rows // self.rows_per_step)

    @property
    def total_steps(self) -> int:
        return self.max_steps if self.max_steps > 0 else math.ceil(self.steps_per_epoch * self.epochs)

    def epoch_after(self, step: int) -> float:
        """Return how many epochs are done after `step` steps."""
        whole, rest = divmod(step, self.steps_per_epoch)
        return whole + min(rest * self.rows_per_step, self.n_rows) / self.n_rows

    def rows_of(self, step: int) -> NDArray[np.int64]:
        """Return the rows of step `step` (from 0)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        start = index * self.rows_per_step
        return permutation(self.n_rows, self.seed, epoch)[start : start + self.rows_per_step]


def load_steps(
    rows: Rows, order: DataOrder, first: int, forward_tokens: int, n_threads: int, ranks: Ranks = ALONE
) -> Iterator[list[Batch]]:
    """Yield this rank's batches of each step from `first` on; threads never change what comes.

    A batch has at most `forward_tokens` tokens, or a single row. A rank has none where a step has fewer rows than ranks.
    """

    def make(step: int) -> list[Batch]:
        return [pack(group) for group in passes(rows, order, step, forward_tokens, ranks)]

    steps = range(first, order.total_steps)
    if n_threads == 0:
        yield from map(make, steps)
        return
    ahead = 2 * n_threads
    with ThreadPoolExecutor(n_threads) as pool:
        queue = [pool.submit(make, step) for step in steps[:ahead]]
        for step in steps:
            batches = queue.pop(0).result()
            if step + ahead in steps:
                queue.append(pool.submit(make, step + ahead))
            yield batches


def passes(rows: Rows, order: DataOrder, step: int, forward_tokens: int, ranks: Ranks = ALONE) -> list[list[Row]]:
    """Return the rows of each of this rank's forward passes of a step."""
    step_rows = [rows.row(int(index)) for index in order.rows_of(step)]
    own = shares([tokens_of(row) for row in step_rows], ranks.size)[ranks.rank]
    return groups_of([step_rows[index] for index in own], forward_tokens)


def shares(tokens: Sequence[int], size: int) -> list[list[int]]:
    """Return which rows of a step, by their number in it, each of `size` ranks takes, so that their tokens are about equal.

    The longest row first, each goes to the rank with the fewest tokens so far; a rank takes its rows in the step's order.
    """
    parts: list[list[int]] = [[] for _ in range(size)]
    totals = [0] * size
    for index in sorted(range(len(tokens)), key=lambda index: -tokens[index]):
        rank = totals.index(min(totals))
        parts[rank].append(index)
        totals[rank] += tokens[index]
    return [sorted(part) for part in parts]


def tokens_of(row: Row) -> int:
    """Return the tokens of a row's sequences together."""
    return sum(len(ids) for ids, _ in row)


def groups_of(rows: Sequence[Row], most_tokens: int) -> list[list[Row]]:
    """Return rows, in their order, in groups of at most so many tokens; a longer row is a group of its own."""
    groups: list[list[Row]] = []
    room = 0
    for row in rows:
        tokens = tokens_of(row)
        if not groups or tokens > room:
            groups.append([])
            room = most_tokens
        groups[-1].append(row)
        room -= tokens
    return groups
