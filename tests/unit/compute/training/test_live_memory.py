"""Tests of `mafunzo.compute.training.live_memory`: short passes tell what long ones take."""

import gc

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from mafunzo.compute.model.lora import AdapterConfig, add_adapter
from mafunzo.compute.training import attention
from mafunzo.compute.training.batch import pack
from mafunzo.compute.training.head_loss import CHUNK, PART, limit_chunk
from mafunzo.compute.training.live_memory import Apart, LiveMemory, PassMemory, trace_pass
from mafunzo.compute.training.memory_plan import Costs
from mafunzo.compute.training.network import attention_for, prepare
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.recomputation import recompute_layers, save_less

SIZES = {
    "vocab_size": 997,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "a large vocabulary": LlamaConfig(**SIZES | {"vocab_size": 20_011}),
    "qwen, its head tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
}
TOKENS = 400


def packed(name: str, is_lora: bool):
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=attention_for(torch.device("cpu")))
    packed = prepare(network.eval())
    if is_lora:
        add_adapter(network, AdapterConfig(r=4, alpha=8))
    save_less(network)
    network.train()
    return packed


def pass_over(packed, tokens: int):
    ids = np.arange(tokens, dtype=np.int32) % 900

    def run_pass() -> int:
        batch = pack([((ids, ids),)])
        Supervised().loss(packed, batch).loss_sum.backward()
        return len(batch.ids_T)

    return run_pass


def counted(packed) -> PassMemory:
    network = packed.network
    attention.limit_saved(network, 0)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    width = packed.head.weight_VH.shape[0] if packed.head is not None else 0
    long, short = (trace_pass(pass_over(packed, tokens), weights, width) for tokens in (32, 16))
    return PassMemory.of(short, long, weights)


def apart(chunk: int, vocabulary: int) -> Apart:
    """Float32 logits, and the scores and softmax of a block of queries of four heads."""
    return Apart(chunk * vocabulary * 4, PART * vocabulary * 4, 2 * 4 * attention.BLOCK * TOKENS * 4)


def live(packed) -> float:
    """The most that a whole pass has live, all counted."""
    weights = [weight for weight in packed.network.parameters() if weight.requires_grad]
    return float(trace_pass(pass_over(packed, TOKENS), weights).live.max())


@pytest.mark.parametrize("is_lora", [True, False], ids=["LoRA", "all weights"])
@pytest.mark.parametrize("name", ["llama", "a large vocabulary", "qwen, its head tied"])
def test_two_short_passes_tell_what_a_long_one_has_live(name, is_lora):
    network = packed(name, is_lora)
    limit_chunk(network.network, 64)
    expected = counted(network).peak(TOKENS - 1, apart(64, CONFIGS[name].vocab_size))
    assert expected == pytest.approx(live(network), rel=0.05)


@pytest.mark.parametrize("recomputed", [1, 3, 6])
def test_a_few_recomputed_layers_take_what_lies_between_none_and_all(recomputed):
    network = packed("llama", is_lora=True)
    whole = counted(network)
    recompute_layers(network.network, 6)
    costs = Costs(whole, counted(network), layers=6)
    recompute_layers(network.network, recomputed)
    expected = costs.peak(TOKENS - 1, recomputed, apart(CHUNK, SIZES["vocab_size"]))
    assert expected == pytest.approx(live(network), rel=0.1)


def test_gradients_of_a_pass_before_count_where_passes_add_up():
    network = packed("llama", is_lora=False)
    memory = counted(network)
    n_bytes = sum(weight.nbytes for weight in network.network.parameters())
    pass_over(network, 64)()  # the gradients are there from now on
    live_memory = LiveMemory(logits_width=997)
    with live_memory:
        pass_over(network, 64)()
    more = live_memory.trace(63, ()).live.max()
    assert memory.peak(63, is_accumulated=True) - n_bytes == pytest.approx(more, rel=0.15)
    assert memory.peak(63) < memory.peak(63, is_accumulated=True)


def test_passes_of_other_operations_are_compared_moment_by_moment():
    """As many experts of a mixture run as tokens choose: more for more tokens."""

    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(32))

        def forward(self, x: Tensor) -> Tensor:
            return sum((x[n::4] * self.weight).exp() for n in range(4 if len(x) > 16 else 2)).sum()

    network = Loops()

    def run_pass(tokens: int):
        def run() -> int:
            network(torch.ones(tokens, 32)).backward()
            return tokens

        return run

    short, long, longest = (trace_pass(run_pass(n), network.parameters()) for n in (16, 32, 512))
    memory = PassMemory.of(short, long, network.parameters())
    assert len(short.live) != len(long.live)
    assert memory.peak(512) == pytest.approx(longest.live.max(), rel=0.5)


def test_what_was_there_before_does_not_count_nor_do_views_of_it():
    before = torch.ones(1000)
    memory = LiveMemory()
    with memory:
        view = before.view(10, 100)[:5]
        made = view + 1
        del view
        made = made.t()
    assert memory.trace(1, ()).live.tolist()[-1] == made.untyped_storage().nbytes() == 2000


def test_what_is_freed_counts_no_more_and_nothing_stays_of_a_pass():
    memory = LiveMemory()
    with memory:
        first = torch.ones(1000)
        del first
        second = torch.ones(10)
        second.add_(1)
    gc.collect()
    assert memory.trace(1, ()).live.tolist() == [4000, 40, 40]
