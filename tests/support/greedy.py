"""Greedy replies of an executor to prompts of several lengths, and those of plain transformers to the same."""

import torch
from transformers import PreTrainedModel

from mafunzo.compute.inference.block_pool import BLOCK_TOKENS, BlockPool
from mafunzo.compute.inference.executor import Executor
from tests.support.row_runner import RowRunner
from tests.support.tiny_network import VOCABULARY

STEPS = 24


def prompts(seed: int = 3) -> list[list[int]]:
    """Prompts shorter and longer than the windows."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in (5, 41, 1, 19, 30)]


def plain_greedy(network: PreTrainedModel, prompt: list[int], steps: int = STEPS) -> list[int]:
    ids = torch.tensor([prompt])
    output = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=steps,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def batched_greedy(
    executor: Executor, prompts: list[list[int]], chunk: int = 1000, pool: BlockPool | None = None
) -> list[list[int]]:
    """Admit one more sequence at each step, so that prompts, chunks of them and decoding rows of all lengths mix; free each as
    it ends."""
    runner = RowRunner(executor, pool or BlockPool(400))
    replies: list[list[int]] = [[] for _ in prompts]
    running: list[int] = []
    waiting = list(range(len(prompts)))
    while waiting or running:
        if waiting:
            running.append(waiting.pop(0))
        tokens = {}
        for id in running:
            start = runner.lengths.get(id, 0)
            tokens[id] = replies[id][-1:] or prompts[id][start : start + chunk]
        for id, row in runner.run(tokens).items():
            if runner.lengths[id] >= len(prompts[id]):
                replies[id].append(int(row[-1].argmax()))
        done = [id for id in running if len(replies[id]) == STEPS]
        runner.free(done)
        running = [id for id in running if id not in done]
    return replies


def copied_greedy(executor: Executor, first: list[int], other: list[int], common: int) -> list[list[int]]:
    """Answer two prompts whose first `common` tokens are the same, the last of them within a block: the second shares the full
    blocks, has a copy of the next, and both go on together."""
    runner = RowRunner(executor)
    replies = [[int(runner.run({0: first})[0][-1].argmax())], list[int]()]
    shared, [source] = (runner.tables[0][: common // BLOCK_TOKENS], runner.tables[0][common // BLOCK_TOKENS :][:1])
    runner.pool.share(shared)
    [target] = runner.pool.take(1)
    executor.copy_blocks([(source, target)])
    runner.tables[1], runner.lengths[1] = (*shared, target), common
    tokens = {0: replies[0], 1: other[common:]}
    while len(replies[1]) < STEPS:
        for id, row in runner.run(tokens).items():
            replies[id].append(int(row[-1].argmax()))
        tokens = {id: reply[-1:] for id, reply in enumerate(replies)}
    return [reply[:STEPS] for reply in replies]


def scattered(blocks: int) -> BlockPool:
    """Return a pool of which every other block is held by somebody else, so that no two blocks of a sequence are neighbours."""
    pool = BlockPool(2 * blocks, keeps_prefixes=False)
    everything = pool.take(2 * blocks)
    pool.release(everything[::2])
    return pool
