import math

import pytest
import torch
from transformers.integrations.neftune import activate_neftune

from mafunzo.compute.training.batch import pack
from mafunzo.compute.training.embedding_noise import add_noise, announce
from mafunzo.compute.training.network import prepare
from tests.support.tiny_training import random_rows, tiny
from tests.support.training_run import LORA, history, train

ALPHA = 5.0


def embedded(network, n_tokens, seed=1):
    torch.manual_seed(seed)
    return network.get_input_embeddings()(torch.arange(n_tokens).unsqueeze(0))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_noise_on_a_sequence_alone_is_transformers_own(family):
    ours, theirs = tiny(family).train(), tiny(family).train()
    add_noise(ours, ALPHA)
    activate_neftune(theirs, ALPHA)
    announce(ours, [12])
    assert torch.allclose(embedded(ours, 12), embedded(theirs, 12), atol=1e-6)
    assert not torch.allclose(embedded(ours, 12), embedded(tiny(family), 12), atol=1e-2)


def test_sequences_that_share_a_line_have_each_the_noise_of_their_own_length():
    network = tiny().train()
    plain = embedded(network, 40)
    add_noise(network, ALPHA)
    announce(network, [4, 36])
    noise = (embedded(network, 40) - plain)[0].abs()
    short, long = ALPHA / math.sqrt(4 * 32), ALPHA / math.sqrt(36 * 32)
    assert long < 0.8 * short < noise[:4].max() <= short
    assert 0.8 * long < noise[4:].max() <= long


def test_a_batch_tells_the_lengths_of_its_sequences(monkeypatch):
    network = tiny()
    told = []
    packed = prepare(network)
    monkeypatch.setattr("mafunzo.compute.training.network.announce", lambda _, lengths: told.append(list(lengths)))
    rows = [(row,) for row in random_rows(3)]
    as_arrays = [
        tuple((torch.tensor(ids).numpy(), torch.tensor(labels).numpy()) for ids, labels in row) for row in rows
    ]
    batch = pack(as_arrays)
    list(packed.forward(batch))
    assert told == [[len(ids) - 1 for ((ids, _),) in rows]]


def test_evaluation_and_passes_that_tell_nothing_have_no_noise():
    network = tiny()
    plain = embedded(network, 9)
    add_noise(network, ALPHA)
    assert torch.equal(embedded(network.train(), 9), plain)
    announce(network, [9])
    assert torch.equal(embedded(network.eval(), 9), plain)
    assert not torch.equal(embedded(network.train(), 9), plain)


def test_training_has_noise(tmp_path, base, prepared):
    _, plain = train(tmp_path, base, prepared, "plain", **LORA)
    _, noisy = train(tmp_path, base, prepared, "noisy", **LORA, neftune_noise_alpha=ALPHA)
    assert history(noisy, "loss")[0] != pytest.approx(history(plain, "loss")[0], rel=1e-4)
