"""The training loop's only interface to an objective, so that a training method is one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mafunzo.compute.training.batch import Batch, RowFormat
from mafunzo.compute.training.network import PackedNetwork


@dataclass(frozen=True)
class BatchLoss:
    """loss_sum: the loss summed over the terms of a batch, float32, with gradients where they are wanted.
    counts: sums that metrics are made of, by the objective's own names."""

    loss_sum: Tensor
    counts: Mapping[str, float]


class Objective(Protocol):
    """A training method: what a row is, and what is minimized over a batch of them.

    The loss of an optimizer step is the mean over the terms of all its forward passes. How many those are has to be known
    before the first backward pass, which is why `terms` looks at the batch alone:

        step's loss = (loss_sum of pass 1 + loss_sum of pass 2 + ...) / (terms of pass 1 + terms of pass 2 + ...)

    So gradient accumulation gives the gradient of one big batch, however uneven its passes are.
    """

    @property
    def row_format(self) -> RowFormat:
        """The columns of the prepared files, for each sequence of a row."""

    @property
    def counts(self) -> tuple[str, ...]:
        """The names in `BatchLoss.counts`."""

    def terms(self, batch: Batch) -> int:
        """Return how many terms (tokens, pairs ...) the loss of a batch is a sum of; 0 where it decides nothing."""

    def loss(self, network: PackedNetwork, batch: Batch) -> BatchLoss:
        """Run the network over a batch."""

    def metrics(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Return what is logged beside the loss, from counts added up over batches."""
