"""Parts of a base, of a group of one process; `tests/flows/test_sharding.py` has two."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, add_adapter
from mafunzo.compute.training.fsdp import shard
from mafunzo.compute.training.parts import gathered_weights, load_parts
from mafunzo.compute.training.ranks import ALONE
from mafunzo.errors import InvalidFile
from tests.support.tiny_training import CONFIGS, write_base
from tests.support.training_run import logits

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def group():
    """A process group of this process, as DeepSpeed makes one too."""
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)


def parts_of(base):
    return load_parts(base, ALONE, torch.float32, trust_remote_code=False, attention="eager")


@pytest.mark.parametrize("family", CONFIGS)
def test_a_network_of_parts_computes_what_the_whole_one_does_once_it_is_sharded(tmp_path, family):
    base = write_base(tmp_path / "base", family)
    whole, network = load_network(base, dtype=torch.float32, attention="eager"), parts_of(base)
    assert type(network) is type(whole)
    assert all(isinstance(weight, DTensor) for weight in network.parameters())
    assert all(
        torch.equal(one.full_tensor(), other)
        for one, other in zip(network.parameters(), whole.parameters(), strict=True)
    )
    root = shard(network, ALONE, CPU)
    with torch.no_grad():
        torch.testing.assert_close(root(lambda: logits(network)), logits(whole))


def test_tied_weights_stay_one_weight_in_all_their_places(tmp_path):
    network = parts_of(write_base(tmp_path / "base", "llama tied"))
    shard(network, ALONE, CPU)
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight


def test_an_adapter_stays_whole_and_starts_as_that_of_a_whole_network(tmp_path):
    base = write_base(tmp_path / "base")
    networks = [load_network(base, dtype=torch.float32, attention="eager"), parts_of(base)]
    for network in networks:
        torch.manual_seed(5)
        add_adapter(network, AdapterConfig(r=2))
    shard(networks[1], ALONE, CPU)
    whole, sharded = ({n: w for n, w in network.named_parameters() if w.requires_grad} for network in networks)
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(sharded[name].full_tensor(), weight) for name, weight in whole.items())


def test_a_block_has_whole_weights_while_it_is_proven_and_its_parts_after_that(tmp_path):
    network = parts_of(write_base(tmp_path / "base"))
    block = network.model.layers[0].mlp
    before = dict(block.named_parameters())
    with gathered_weights(block):
        assert not any(isinstance(weight, DTensor) for weight in block.parameters())
        assert [weight.requires_grad for weight in block.parameters()] == [w.requires_grad for w in before.values()]
    assert all(weight is before[name] for name, weight in block.named_parameters())
    with gathered_weights(nn.Linear(2, 2)):  # that has no parts
        pass


def test_weights_that_a_file_lacks_are_told_as_for_a_whole_network(tmp_path):
    base = write_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidFile, match="weights are missing and would start at random"):
        parts_of(base)
