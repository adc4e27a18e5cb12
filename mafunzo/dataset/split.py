"""The train/validation/test split. Azure ML's table: contiguous percent slices, taken before any filter.

| given | train | validation | test |
|---|---|---|---|
| train | first 80 % | 80-90 % | last 10 % |
| train, test | first 80 % | last 20 % | given |
| train, validation | first 80 % | given | last 20 % |
| all three | all | given | given |
"""

import random
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")
MINIMUM_TRAINING_ROWS = 10
"""Fewer rows are refused, as in Azure ML."""


@dataclass(frozen=True)
class Share:
    """Rows of the training file: [`first`, `last`) by index, or by position in a shuffled `order`."""

    first: int
    last: int
    order: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.last - self.first

    def chosen(self) -> frozenset[int] | range:
        """Return the indices of the rows."""
        return range(self.first, self.last) if self.order is None else frozenset(self.order[self.first : self.last])


def split(rows: int, has_validation: bool, has_test: bool, seed: int | None = None) -> dict[str, Share]:
    """Return each split's share of the training file's `rows`; a split with a file of its own is left out.

    `seed` shuffles before the split; within a split rows stay in the file's order.
    """
    order = None
    if seed is not None:
        indices = list(range(rows))
        random.Random(seed).shuffle(indices)
        order = tuple(indices)
    percents = {
        (False, False): {"train": (0, 80), "validation": (80, 90), "test": (90, 100)},
        (False, True): {"train": (0, 80), "validation": (80, 100)},
        (True, False): {"train": (0, 80), "test": (80, 100)},
        (True, True): {"train": (0, 100)},
    }[has_validation, has_test]
    return {name: Share(_row(low, rows), _row(high, rows), order) for name, (low, high) in percents.items()}


def _row(percent: int, rows: int) -> int:
    """Return a percentage of `rows`, rounded to the closest row as in `datasets`' `train[:80%]`."""
    return round(percent * rows / 100.0)
