"""Supervised fine-tuning: cross entropy at the tokens that the assistant wrote."""

from collections.abc import Mapping

import torch

from mafunzo.compute.training.batch import Batch, RowFormat
from mafunzo.compute.training.network import PackedNetwork
from mafunzo.compute.training.objectives.objective import BatchLoss


class Supervised:
    """One sequence a row; the terms are the trained tokens, the loss is in nats, and its metric the token accuracy."""

    row_format: RowFormat = (("input_ids", "labels"),)
    counts = ("correct", "targets")

    def terms(self, batch: Batch) -> int:
        return batch.n_targets

    def loss(self, network: PackedNetwork, batch: Batch) -> BatchLoss:
        loss_sum = torch.zeros((), dtype=torch.float32, device=network.device)
        correct = 0
        for outputs in network.forward(batch):
            part_loss, part_correct = outputs.loss()
            loss_sum = loss_sum + part_loss
            correct += part_correct
        return BatchLoss(loss_sum, {"correct": correct, "targets": batch.n_targets})

    def metrics(self, counts: Mapping[str, float]) -> dict[str, float]:
        return {"mean_token_accuracy": counts["correct"] / max(counts["targets"], 1)}
