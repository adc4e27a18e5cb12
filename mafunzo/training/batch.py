"""Rows as they were prepared, and the packed batches that a network is given, in an order that a seed decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from mafunzo.errors import InvalidData, InvalidFile
from mafunzo.training.head_loss import IGNORED

COLUMNS = ("input_ids", "labels")
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Rows:
    """Tokenised rows, behind each other in two flat arrays; row `i` is `[bounds[i], bounds[i + 1])` of each.

    labels: the token itself where it is trained, -100 elsewhere.
    """

    ids: Ints
    labels: Ints
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def row(self, index: int) -> tuple[Ints, Ints]:
        low, high = self.bounds[index], self.bounds[index + 1]
        return self.ids[low:high], self.labels[low:high]

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def trained_tokens(self) -> int:
        """How many tokens have a label; the first of a row never counts, because nothing comes before it."""
        return int((self.labels != IGNORED).sum() - (self.labels[self.bounds[:-1]] != IGNORED).sum())


def read_rows(path: Path) -> Rows:
    """Read `input_ids` and `labels` of a prepared parquet file; raises `InvalidFile` or `InvalidData`."""
    try:
        table = pq.read_table(path, columns=list(COLUMNS), memory_map=True).combine_chunks()
    except (OSError, ValueError, KeyError) as error:
        raise InvalidFile(f"{path} isn't a prepared parquet file with {' and '.join(COLUMNS)}: {error}") from error
    if table.num_rows == 0:
        raise InvalidData(f"{path} has no rows.")
    flat, bounds = {}, {}
    for name in COLUMNS:
        column = table.column(name).combine_chunks()
        column = column.chunk(0) if hasattr(column, "chunk") else column
        bounds[name] = column.offsets.to_numpy().astype(np.int64)
        flat[name] = column.flatten().to_numpy().astype(np.int32, copy=False)
    starts = {name: bounds[name] - bounds[name][0] for name in COLUMNS}
    if not np.array_equal(starts["input_ids"], starts["labels"]):
        raise InvalidData(f"{path}: input_ids and labels have different lengths.")
    if (np.diff(starts["labels"]) == 0).any():
        raise InvalidData(f"{path}: row {int((np.diff(starts['labels']) == 0).argmax())} is empty.")
    rows = Rows(flat["input_ids"], flat["labels"], starts["labels"])
    if rows.trained_tokens == 0:
        raise InvalidData(f"{path}: no row has an assistant token to train on.")
    return rows


@dataclass(frozen=True)
class Batch:
    """Sequences behind each other in one row of T tokens.

    targets_T: the token that follows, where it is trained, else -100. Positions start again at 0 in each sequence.
    n_targets: how many are trained. n_tokens: tokens of the rows that it was made from.
    """

    ids_T: Tensor
    positions_T: Tensor
    targets_T: Tensor
    bounds: tuple[int, ...]
    n_targets: int
    n_tokens: int


def pack(rows: Sequence[tuple[Ints, Ints]]) -> Batch:
    """Put rows behind each other. What follows a row's last trained token, padding too, decides no loss and is left out."""
    ids, positions, targets, bounds, n_tokens = [], [], [], [0], 0
    for row_ids, row_labels in rows:
        trained = np.flatnonzero(row_labels[1:] != IGNORED)
        end = int(trained[-1]) + 1 if len(trained) else 0
        n_tokens += end + 1
        if end:
            ids.append(row_ids[:end])
            targets.append(row_labels[1 : end + 1])
            positions.append(np.arange(end))
            bounds.append(bounds[-1] + end)
    if not ids:
        empty = torch.empty(0, dtype=torch.int64)
        return Batch(empty, empty, empty, (0,), 0, n_tokens)
    targets_T = torch.from_numpy(np.concatenate(targets).astype(np.int64))
    return Batch(
        ids_T=torch.from_numpy(np.concatenate(ids).astype(np.int64)),
        positions_T=torch.from_numpy(np.concatenate(positions).astype(np.int64)),
        targets_T=targets_T,
        bounds=tuple(bounds),
        n_targets=int((targets_T != IGNORED).sum()),
        n_tokens=n_tokens,
    )


@lru_cache(maxsize=2)
def order(n_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of the rows in an epoch (from 0): a permutation that only seed and epoch decide."""
    return np.random.default_rng([seed, epoch]).permutation(n_rows)


@dataclass(frozen=True)
class Course:
    """Which rows each optimizer step trains on.

    batch: rows of a forward pass. accumulation: forward passes of a step; an epoch's last step may have fewer.
    """

    n_rows: int
    batch: int
    accumulation: int
    epochs: int
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
        return self.max_steps if self.max_steps > 0 else self.steps_per_epoch * self.epochs

    def epoch_after(self, step: int) -> float:
        """Return how many epochs are done after `step` steps."""
        whole, rest = divmod(step, self.steps_per_epoch)
        return whole + min(rest * self.rows_per_step, self.n_rows) / self.n_rows

    def rows_of(self, step: int) -> NDArray[np.int64]:
        """Return the rows of step `step` (from 0)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return order(self.n_rows, self.seed, epoch)[index * self.rows_per_step : (index + 1) * self.rows_per_step]


def split(rows: NDArray[np.int64], batch: int) -> list[NDArray[np.int64]]:
    """Return the rows of a step in parts of at most `batch`."""
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]
