"""The OpenVINO executor against plain transformers, architecture by architecture, and what is refused."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from mafunzo.compute.inference.block_pool import BLOCK_TOKENS, BlockPool
from mafunzo.compute.inference.executor import Row, Wanted
from mafunzo.compute.inference.executor_openvino import OpenVinoExecutor
from mafunzo.compute.inference.openvino_graph import expected_windows, import_openvino, stateful_graph
from mafunzo.errors import NotSupported
from tests.support.greedy import STEPS, batched_greedy, copied_greedy, plain_greedy, prompts, scattered
from tests.support.row_runner import RowRunner
from tests.support.tiny_network import ARCHITECTURES, VOCABULARY, make_network

QUICK = {"gemma3"}
"""With windows in some layers; all are compared in the slow tier."""
SUPPORTED = [name for name in ARCHITECTURES if name != "gemma2"]


def graph_file(network: PreTrainedModel, folder: Path) -> Path:
    file = folder / "graph.xml"
    import_openvino().save_model(stateful_graph(network), file, compress_to_fp16=False)
    return file


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SUPPORTED]
)
def test_greedy_tokens_of_a_mixed_batch_are_those_of_plain_generate(architecture: str, tmp_path: Path) -> None:
    network = make_network(architecture)
    expected = [plain_greedy(network, prompt) for prompt in prompts()]
    executor = OpenVinoExecutor(graph_file(network, tmp_path), network.config, VOCABULARY)
    assert executor.sliding_windows == expected_windows(network.config)
    assert [plain_greedy(network, prompt) for prompt in prompts()[:1]] == expected[:1], "it is as it was before"
    for chunk, pool in ((1000, BlockPool(400)), (7, scattered(60)), (1, BlockPool(60))):
        assert batched_greedy(executor, prompts(), chunk, pool) == expected


@pytest.fixture(scope="module")
def network() -> PreTrainedModel:
    return make_network("llama")


@pytest.fixture(scope="module")
def llama_file(network: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graph_file(network, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def llama(network: PreTrainedModel, llama_file: Path) -> tuple[PreTrainedModel, OpenVinoExecutor]:
    return network, OpenVinoExecutor(llama_file, network.config, VOCABULARY)


def test_all_logits_of_a_prompt_are_those_of_a_plain_forward(llama: tuple[PreTrainedModel, OpenVinoExecutor]) -> None:
    network, executor = llama
    prompt = prompts()[1]
    with torch.no_grad():
        expected = network(torch.tensor([prompt])).logits[0]
    runner = RowRunner(executor)
    first, second = runner.run({7: prompt[:20]}, Wanted.ALL)[7], runner.run({7: prompt[20:]}, Wanted.ALL)[7]
    assert torch.allclose(torch.cat([first, second]), expected, atol=1e-4)


def test_only_the_logits_that_are_wanted_are_computed(llama: tuple[PreTrainedModel, OpenVinoExecutor]) -> None:
    runner = RowRunner(llama[1])
    rows = [runner.row(id, prompts()[id], wanted) for id, wanted in enumerate((Wanted.NONE, Wanted.ALL, Wanted.LAST))]
    assert [tuple(logits.shape) for logits in runner.executor.forward(rows)] == [
        (0, VOCABULARY), (41, VOCABULARY), (1, VOCABULARY)
    ]  # fmt: skip
    [none] = runner.executor.forward([runner.row(3, [5], Wanted.NONE)])
    assert none.shape == (0, VOCABULARY)


def test_a_prompt_that_begins_with_anothers_blocks_needs_only_the_rest(
    llama: tuple[PreTrainedModel, OpenVinoExecutor],
) -> None:
    network, executor = llama
    prefix = [*prompts()[1], *prompts()[3], *prompts()[4]][: 2 * BLOCK_TOKENS]
    runner = RowRunner(executor)
    runner.run({0: [*prefix, 5, 6, 7]})
    shared = runner.tables[0][:2]
    runner.pool.share(shared)
    runner.tables[1], runner.lengths[1] = shared, len(prefix)
    tokens, reply = [9], list[int]()
    for _ in range(STEPS):
        reply.append(int(runner.run({1: tokens})[1][-1].argmax()))
        tokens = reply[-1:]
    assert reply == plain_greedy(network, [*prefix, 9])


def test_a_prompt_that_goes_on_like_a_block_of_another_has_a_copy_and_leaves_the_other_as_it_is(
    llama: tuple[PreTrainedModel, OpenVinoExecutor],
) -> None:
    network, executor = llama
    first, other = [*prompts()[1], *prompts()[3]], [*prompts()[1], *prompts()[4]]
    copied = copied_greedy(executor, first, other, len(prompts()[1]))
    assert copied == [plain_greedy(network, prompt) for prompt in (first, other)]


def test_blocks_are_copied_bit_by_bit_all_at_once_and_room_is_made_for_them(
    network: PreTrainedModel, llama_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = OpenVinoExecutor(llama_file, network.config, VOCABULARY)
    monkeypatch.setattr(executor, "cache_budget_tokens", lambda: 2 * BLOCK_TOKENS)
    first, second = prompts()[1][:31], prompts()[1][10:41]
    executor.forward([Row(first, 0, (0,)), Row(second, 0, (1,))])
    last = [Row([5], 31, (block,)) for block in (0, 1)]
    expected = executor.forward(last)
    executor.copy_blocks([(0, 1), (1, 0), (0, 9)])
    swapped = executor.forward([Row([5], 31, (block,)) for block in (1, 0)])
    [apart] = executor.forward([Row([5], 31, (9,))])
    assert all(torch.equal(*pair) for pair in zip(swapped, expected, strict=True))
    assert torch.equal(apart, executor.forward(last[1:])[0])


def test_a_cache_that_grows_keeps_what_is_in_it_and_one_that_was_cleared_can_be_filled_again(
    llama: tuple[PreTrainedModel, OpenVinoExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, executor = llama
    executor.clear()
    monkeypatch.setattr(executor, "cache_budget_tokens", lambda: BLOCK_TOKENS)
    prompt = [*prompts()[1], *prompts()[4]]
    for _ in range(2):
        runner = RowRunner(executor)
        runner.run({0: prompt[:3]})
        runner.run({0: prompt[3:50]})
        last = runner.run({0: prompt[50:]})[0][-1]
        assert [int(last.argmax())] == plain_greedy(network, prompt, 1)
        executor.clear()


def test_a_limit_of_the_cache_is_kept_and_no_longer_sequence_is_served(
    network: PreTrainedModel, llama_file: Path
) -> None:
    token_bytes = 2 * 3 * 2 * 8 * 4  # keys and values, layers, heads, width, float32
    executor = OpenVinoExecutor(llama_file, network.config, VOCABULARY, cache_bytes=100 * token_bytes)
    assert (executor.max_model_len, executor.cache_budget_tokens()) == (99, 100)


def test_soft_capped_scores_are_refused() -> None:
    with pytest.raises(NotSupported, match="soft-capped"):
        stateful_graph(make_network("gemma2"))
