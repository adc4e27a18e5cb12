"""Supervised fine-tuning's loss and metric; that the loss is the network's own is told in test_network.py."""

import numpy as np
import torch

from mafunzo.compute.training import attention
from mafunzo.compute.training.batch import Batch, pack
from mafunzo.compute.training.network import prepare
from mafunzo.compute.training.objectives.supervised import Supervised
from tests.support.tiny_training import random_rows, tiny


def as_batch(rows) -> Batch:
    return pack([((np.array(ids, np.int32), np.array(labels, np.int32)),) for ids, labels in rows])


def test_the_terms_are_the_trained_tokens():
    rows = random_rows(4)
    assert Supervised().terms(as_batch(rows)) == sum(label != -100 for _, labels in rows for label in labels[1:])


def test_a_batch_that_trains_nothing_has_no_loss():
    attention.register()
    batch = as_batch([([5, 6], [-100, -100])])
    result = Supervised().loss(prepare(tiny(attention=attention.PACKED)), batch)
    assert (Supervised().terms(batch), float(result.loss_sum)) == (0, 0.0)
    assert not result.loss_sum.requires_grad
    assert Supervised().metrics(result.counts) == {"mean_token_accuracy": 0.0}


def test_token_accuracy_counts_the_likeliest_tokens():
    attention.register()
    model = tiny("llama", attention=attention.PACKED)
    rows = random_rows(4)
    result = Supervised().loss(prepare(model), as_batch(rows))
    expected = 0
    for ids, labels in rows:
        guesses = model(torch.tensor([ids])).logits[0, :-1].argmax(-1)
        targets = torch.tensor(labels[1:])
        expected += int(((guesses == targets) & (targets != -100)).sum())
    n_targets = sum(label != -100 for _, labels in rows for label in labels[1:])
    assert result.counts == {"correct": expected, "targets": n_targets}
    assert Supervised().metrics(result.counts) == {"mean_token_accuracy": expected / n_targets}
