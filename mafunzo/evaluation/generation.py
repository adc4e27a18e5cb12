"""Greedy replies to prompts of token ids, in batches."""

from collections.abc import Callable, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from mafunzo.evaluation.tasks import batches_by_length

PROMPT_TOKENS_AT_ONCE = 16384


@torch.inference_mode()
def generate(
    network: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
    batch_size: int,
    on_progress: Callable[[int], None],
) -> list[list[int]]:
    """Return each prompt's continuation: the most probable token each time, up to and with the first stop token."""
    network.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(stop_token_ids),
        pad_token_id=stop_token_ids[0],
    )
    replies: list[list[int]] = [[] for _ in prompts]
    done = 0
    for batch in batches_by_length([len(ids) for ids in prompts], batch_size, PROMPT_TOKENS_AT_ONCE):
        for index, reply in zip(batch, _batch(network, [prompts[i] for i in batch], stop_token_ids), strict=True):
            replies[index] = reply
        done += len(batch)
        on_progress(done)
    return replies


def _batch(network: PreTrainedModel, prompts: list[Sequence[int]], stop_token_ids: Sequence[int]) -> list[list[int]]:
    longest = max(len(ids) for ids in prompts)
    ids_BT = torch.full((len(prompts), longest), stop_token_ids[0], dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for b, ids in enumerate(prompts):
        ids_BT[b, longest - len(ids) :] = torch.tensor(list(ids))
        mask_BT[b, longest - len(ids) :] = 1
    whole_BT = network.generate(ids_BT.to(network.device), attention_mask=mask_BT.to(network.device))
    return [_until_stop(row[longest:], stop_token_ids) for row in whole_BT.tolist()]


def _until_stop(ids: list[int], stop_token_ids: Sequence[int]) -> list[int]:
    first = next((i for i, token in enumerate(ids) if token in stop_token_ids), len(ids) - 1)
    return ids[: first + 1]
