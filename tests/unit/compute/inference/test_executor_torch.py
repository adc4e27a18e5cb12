"""The batched executor against plain transformers, architecture by architecture."""

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from mafunzo import cgroup
from mafunzo.compute.inference import attention, executor_torch
from mafunzo.compute.inference.block_pool import BLOCK_TOKENS
from mafunzo.compute.inference.executor import Wanted
from mafunzo.compute.inference.executor_torch import TorchExecutor, serving_dtype
from mafunzo.entities.compute import HalfFormats
from mafunzo.errors import NotSupported
from tests.support.greedy import STEPS, batched_greedy, copied_greedy, plain_greedy, prompts, scattered
from tests.support.row_runner import RowRunner
from tests.support.tiny_network import ARCHITECTURES, VOCABULARY, make_network

QUICK = {"llama", "gemma3", "gpt2"}
"""Without a window, with windows in some layers, and with learned positions; all are compared in the slow tier."""
COMPUTED = HalfFormats(computed=frozenset({"bfloat16"}))
CONVERTED = HalfFormats(converted=frozenset({"bfloat16"}))


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain weights", "packed weights"])
@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]
)
def test_greedy_tokens_of_a_mixed_batch_are_those_of_plain_generate(architecture: str, is_packed: bool) -> None:
    network = make_network(architecture)
    expected = [plain_greedy(network, prompt) for prompt in prompts()]
    assert len({token for reply in expected for token in reply}) > 10, "the replies must vary to be worth comparing"
    executor = TorchExecutor(copy.deepcopy(network), pack_weights=is_packed)
    assert batched_greedy(executor, prompts()) == expected


@pytest.mark.parametrize("architecture", ["phi3", "qwen2 with windows", "gemma2", "gemma3", "mistral"])
def test_the_window_changes_the_tokens_so_that_comparing_them_would_notice_its_loss(architecture: str) -> None:
    network = make_network(architecture)
    window_tokens = plain_greedy(network, prompts()[1])
    network.config.sliding_window = 250
    assert plain_greedy(network, prompts()[1]) != window_tokens


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma3"])
@pytest.mark.parametrize("chunk", [1, 7, pytest.param(16, marks=pytest.mark.slow)])
def test_a_prompt_in_chunks_gives_the_same_tokens(architecture: str, chunk: int) -> None:
    network = make_network(architecture)
    expected = [plain_greedy(network, prompt) for prompt in prompts()]
    assert batched_greedy(TorchExecutor(network), prompts(), chunk) == expected


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma2", "gemma3", "qwen3"])
def test_the_network_without_slots_computes_what_it_did_before(architecture: str) -> None:
    network = make_network(architecture)
    ids = torch.tensor([prompts()[1]])
    with torch.no_grad():
        before = network(ids).logits
        TorchExecutor(network)
        assert torch.allclose(network(ids).logits, before, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma2", "gemma3", "gpt2"])
@pytest.mark.parametrize("chunk", [1000, 7])
@pytest.mark.parametrize("split_from", [0, 1 << 20], ids=["apart", "concatenated"])
def test_blocks_that_lie_apart_give_the_same_tokens(
    architecture: str, chunk: int, split_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SPLIT_FROM", split_from)
    network = make_network(architecture)
    expected = [plain_greedy(network, prompt) for prompt in prompts()]
    assert batched_greedy(TorchExecutor(network), prompts(), chunk, scattered(60)) == expected


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "gpt2"])
def test_rows_that_are_attended_to_in_one_call_give_the_same_tokens(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an accelerator does it."""
    network = make_network(architecture)
    expected = [plain_greedy(network, prompt) for prompt in prompts()]
    monkeypatch.setattr(attention, "ROW_BY_ROW", frozenset())
    assert batched_greedy(TorchExecutor(network), prompts(), 7, scattered(60)) == expected


def test_all_logits_of_a_prompt_are_those_of_a_plain_forward() -> None:
    network = make_network("phi3")
    prompt = prompts()[1]
    with torch.no_grad():
        expected = network(torch.tensor([prompt])).logits[0]
    runner = RowRunner(TorchExecutor(network))
    first, second = runner.run({7: prompt[:20]}, Wanted.ALL)[7], runner.run({7: prompt[20:]}, Wanted.ALL)[7]
    assert torch.allclose(torch.cat([first, second]), expected, atol=1e-4)


def test_only_the_logits_that_are_wanted_are_computed() -> None:
    runner = RowRunner(TorchExecutor(make_network("llama")))
    rows = [runner.row(id, prompts()[id], wanted) for id, wanted in enumerate((Wanted.NONE, Wanted.ALL, Wanted.LAST))]
    assert [tuple(logits.shape) for logits in runner.executor.forward(rows)] == [
        (0, VOCABULARY), (41, VOCABULARY), (1, VOCABULARY)
    ]  # fmt: skip
    [none] = runner.executor.forward([runner.row(3, [5], Wanted.NONE)])
    assert none.shape == (0, VOCABULARY)


def test_a_partly_prefilled_sequence_stays_apart_from_those_that_decode() -> None:
    network = make_network("llama")
    first, long, third = prompts()[0], prompts()[1], prompts()[3]
    runner = RowRunner(TorchExecutor(network))
    tokens = {id: int(row[-1].argmax()) for id, row in runner.run({0: first, 2: third}).items()}
    runner.run({1: long[:11]})
    replies = {0: [tokens[0]], 2: [tokens[2]]}
    for _ in range(4):
        for id, row in runner.run({id: reply[-1:] for id, reply in replies.items()}).items():
            replies[id].append(int(row[-1].argmax()))
    runner.free([0])
    last = int(runner.run({1: long[11:]})[1][-1].argmax())
    rows = runner.run({1: [last], 2: replies[2][-1:]})
    assert [last, int(rows[1][-1].argmax())] == plain_greedy(network, long, 2)
    assert [*replies[2], int(rows[2][-1].argmax())] == plain_greedy(network, third, 6)


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]
)
def test_a_prompt_that_begins_with_anothers_blocks_needs_only_the_rest(architecture: str) -> None:
    """The windows are shorter than the prefix, so that some of it is out of sight."""
    network = make_network(architecture)
    prefix = [*prompts()[1], *prompts()[3], *prompts()[4]][: 2 * BLOCK_TOKENS]
    executor = TorchExecutor(network)
    runner = RowRunner(executor)
    runner.run({0: [*prefix, 5, 6, 7]})
    shared = runner.tables[0][:2]
    others = {1: [*prefix, 9], 2: [*prefix, *prompts()[4]]}
    for id in others:
        runner.pool.share(shared)
        runner.tables[id], runner.lengths[id] = shared, len(prefix)
    replies: dict[int, list[int]] = {id: [] for id in others}
    tokens = {id: prompt[len(prefix) :] for id, prompt in others.items()}
    for _ in range(STEPS):
        for id, row in runner.run(tokens).items():
            replies[id].append(int(row[-1].argmax()))
        tokens = {id: reply[-1:] for id, reply in replies.items()}
    assert replies == {id: plain_greedy(network, prompt) for id, prompt in others.items()}


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]
)
def test_a_prompt_that_goes_on_like_a_block_of_another_has_a_copy_and_leaves_the_other_as_it_is(
    architecture: str,
) -> None:
    network = make_network(architecture)
    executor = TorchExecutor(network)
    first, other = [*prompts()[1], *prompts()[3]], [*prompts()[1], *prompts()[4]]
    copied = copied_greedy(executor, first, other, len(prompts()[1]))
    assert copied == [plain_greedy(network, prompt) for prompt in (first, other)]


def test_a_row_that_is_run_again_changes_nothing() -> None:
    runner = RowRunner(TorchExecutor(make_network("llama")))
    runner.run({0: prompts()[1][:20]})
    row = runner.row(0, prompts()[1][20:], Wanted.ALL)
    [once], [again] = runner.executor.forward([row]), runner.executor.forward([row])
    assert torch.equal(once, again)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        pytest.param({"rope_type": "default", "rope_theta": 10000.0}, 4096, id="plain"),
        pytest.param(
            {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 1024,
            },
            1024,
            id="longrope, up to where the long factors begin",
        ),
    ],
)
def test_a_context_ends_where_batching_would_not_be_exact(rope: dict[str, object], expected: int) -> None:
    config = {"max_position_embeddings": 4096, "original_max_position_embeddings": 1024, "rope_parameters": rope}
    executor = TorchExecutor(make_network("phi3 without a window", **config))
    assert executor.max_model_len == expected


def test_an_architecture_without_keys_and_values_is_refused() -> None:
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(NotSupported, match="can't be served in batches"):
        TorchExecutor(AutoModelForCausalLM.from_config(config))


def test_a_cache_that_was_cleared_holds_no_memory() -> None:
    executor = TorchExecutor(make_network("llama"))
    assert executor.cache.layers[0].keys is None, "nor does one that only warmed up"
    RowRunner(executor).run({1: [3, 4, 5]})
    assert executor.cache.layers[0].keys.numel() > 0
    executor.clear()
    assert executor.cache.layers[0].keys is None
    assert RowRunner(executor).run({1: [3, 4, 5]})[1].shape == (1, VOCABULARY)


@pytest.mark.parametrize(
    ("weights_dtype", "device", "formats", "memory_bytes", "dtype"),
    [
        pytest.param(
            "bfloat16", "cpu", COMPUTED, 8000, None, id="bfloat16 that the CPU computes in stays as it is stored"
        ),
        pytest.param("bfloat16", "cpu", CONVERTED, 8000, torch.float32, id="bfloat16 that it converts"),
        pytest.param("bfloat16", "cpu", CONVERTED, 3000, None, id="bfloat16 that it converts, and little memory"),
        pytest.param("bfloat16", "cpu", HalfFormats(), 3000, torch.float32, id="bfloat16 on another CPU"),
        pytest.param("float16", "cpu", COMPUTED, 8000, torch.float32, id="float16 on a CPU"),
        pytest.param("float32", "cpu", HalfFormats(), 8000, None, id="float32"),
        pytest.param("bfloat16", "cuda", HalfFormats(), 8000, None, id="a GPU"),
    ],
)
def test_weights_are_served_as_stored_where_the_cpu_computes_in_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights_dtype: str,
    device: str,
    formats: HalfFormats,
    memory_bytes: int,
    dtype: torch.dtype | None,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": weights_dtype}))
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    monkeypatch.setattr(executor_torch, "half_formats", lambda: formats)
    monkeypatch.setattr(cgroup, "usable_memory_bytes", lambda: memory_bytes)
    assert serving_dtype(tmp_path, device) == dtype


def test_a_limit_of_the_cache_is_kept_and_no_longer_sequence_is_served() -> None:
    network = make_network("llama")
    token_bytes = 2 * 3 * 2 * 8 * 4  # keys and values, layers, heads, width, float32
    roomy = TorchExecutor(network, cache_bytes=1000 * token_bytes)
    assert (roomy.max_model_len, roomy.cache_budget_tokens()) == (256, 1000)
    tight = TorchExecutor(network, cache_bytes=100 * token_bytes)
    assert (tight.max_model_len, tight.cache_budget_tokens()) == (99, 100)
