"""Rows as they were prepared (the tokenized dataset), and the packed batches that a network is given.

A row has one sequence (a conversation), or several that belong together (a preferred reply and a rejected one). Packing, or
padding-free batching, puts the sequences of a batch behind each other in one line of T tokens, instead of beside each other
in a rectangle that is as wide as the longest. Three rows of one sequence:

    ids        a a a a b b c c c          padded:  a a a a
    positions  0 1 2 3 0 1 0 1 2                   b b . .      dots cost as much as tokens
    bounds     0       4   6     9                 c c c .

and two rows of two sequences each, chosen and rejected:

    ids        a a a A A b b B B B        sequence j of row i is number i * 2 + j
    bounds     0     3   5   7     10

The invariants: no sequence sees another (attention.py keeps to the bounds), positions start again at 0 in each, and the
target of a token is the one that follows in its own sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from mafunzo.compute.chat.examples import IGNORED
from mafunzo.errors import InvalidData, InvalidFile

Ints = NDArray[np.int32]
Row = tuple[tuple[Ints, Ints], ...]
"""Token ids and labels of each sequence of a row."""
RowFormat = tuple[tuple[str, str], ...]
"""What a prepared file holds: for each sequence of a row the column of its token ids, and that of its labels."""


@dataclass(frozen=True)
class Sequences:
    """A sequence of each row, behind each other in two flat arrays; that of row `i` is `[bounds[i], bounds[i + 1])` of each.

    labels: the token itself where it is trained, -100 elsewhere.
    """

    ids: Ints
    labels: Ints
    bounds: NDArray[np.int64]

    def of_row(self, index: int) -> tuple[Ints, Ints]:
        low, high = self.bounds[index], self.bounds[index + 1]
        return self.ids[low:high], self.labels[low:high]

    @property
    def trained_tokens(self) -> int:
        """How many tokens have a label; the first of a sequence never counts, because nothing comes before it."""
        return int((self.labels != IGNORED).sum() - (self.labels[self.bounds[:-1]] != IGNORED).sum())

    @property
    def is_trained(self) -> NDArray[np.bool_]:
        """For each row whether a token of this sequence is trained."""
        labelled = self.labels != IGNORED
        labelled[self.bounds[:-1]] = False
        return np.logical_or.reduceat(labelled, self.bounds[:-1])


@dataclass(frozen=True)
class Rows:
    """All rows of a prepared file, by the sequences that each of them has."""

    sequences: tuple[Sequences, ...]

    def __len__(self) -> int:
        return len(self.sequences[0].bounds) - 1

    def row(self, index: int) -> Row:
        return tuple(column.of_row(index) for column in self.sequences)

    @property
    def tokens(self) -> int:
        return sum(len(column.ids) for column in self.sequences)

    @property
    def trained_tokens(self) -> int:
        return sum(column.trained_tokens for column in self.sequences)


def read_rows(path: Path, row_format: RowFormat) -> Rows:
    """Read the columns of a row format from a prepared parquet file; raises `InvalidFile` or `InvalidData`."""
    columns = [name for pair in row_format for name in pair]
    try:
        with pq.ParquetFile(path, memory_map=True) as file:  # read_table imports the engine of partitioned data sets
            table = file.read(columns).select(columns).combine_chunks()
    except (OSError, ValueError, KeyError) as error:
        raise InvalidFile(f"{path} isn't a prepared parquet file with {' and '.join(columns)}: {error}") from error
    if table.num_rows == 0:
        raise InvalidData(f"{path} has no rows.")
    rows = Rows(tuple(_sequences(path, table, ids, labels) for ids, labels in row_format))
    if not np.logical_and.reduce([column.is_trained for column in rows.sequences]).any():
        raise InvalidData(f"{path}: no row has an assistant token to train on.")
    return rows


def _sequences(path: Path, table: pa.Table, ids_name: str, labels_name: str) -> Sequences:
    ids, starts = _flat(table, ids_name)
    labels, label_starts = _flat(table, labels_name)
    if not np.array_equal(starts, label_starts):
        raise InvalidData(f"{path}: {ids_name} and {labels_name} have different lengths.")
    is_empty = np.diff(starts) == 0
    if is_empty.any():
        raise InvalidData(f"{path}: row {int(is_empty.argmax())} is empty.")
    return Sequences(ids, labels, starts)


def _flat(table: pa.Table, name: str) -> tuple[Ints, NDArray[np.int64]]:
    """Return a column of lists as one array, and where in it each list begins."""
    column = table.column(name).combine_chunks()
    column = column.chunk(0) if hasattr(column, "chunk") else column
    bounds = np.from_dlpack(column.offsets).astype(np.int64)  # to_numpy imports pandas
    return np.from_dlpack(column.flatten()).astype(np.int32, copy=False), bounds - bounds[0]


@dataclass(frozen=True)
class Batch:
    """Sequences behind each other in one line of T tokens.

    targets_T: the token that follows, where it is trained, else -100. Positions start again at 0 in each sequence.
    n_targets: how many are trained. n_tokens: tokens of the rows that it was made from.
    """

    ids_T: Tensor
    positions_T: Tensor
    targets_T: Tensor
    bounds: tuple[int, ...]
    n_targets: int
    n_tokens: int


def pack(rows: Sequence[Row]) -> Batch:
    """Put the sequences of rows behind each other.

    What follows a sequence's last trained token, padding too, decides no loss and is left out; so is a row of which a
    sequence has no trained token.
    """
    ids, positions, targets, bounds, n_tokens = [], [], [], [0], 0
    for row in rows:
        ends = [_end(labels) for _, labels in row]
        n_tokens += sum(end + 1 for end in ends)
        if not all(ends):
            continue
        for (row_ids, row_labels), end in zip(row, ends, strict=True):
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


def _end(labels: Ints) -> int:
    """Return how many tokens of a sequence are given to the network: those before its last trained one."""
    trained = np.flatnonzero(labels[1:] != IGNORED)
    return int(trained[-1]) + 1 if len(trained) else 0
