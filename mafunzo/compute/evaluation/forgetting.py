"""Catastrophic forgetting: how far tuning moved the model on questions that are unrelated to the tuning data.

Measured is KL(base || tuned), in nats a token, of the next-token distributions over the whole vocabulary, after each general
prompt (rendered as a conversation) and after each of the first tokens of the base model's greedy reply to it. 0 is
"unchanged". The two networks are never in memory together: the base's distributions are kept in a file (float16).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mafunzo.compute.evaluation.likelihood import chunks, reply_logits, tokens_at_once
from mafunzo.compute.evaluation.metrics import Floats
from mafunzo.compute.evaluation.tasks import batches_by_length
from mafunzo.errors import NotSupported

REPLY_TOKENS = 16
FILE_BYTES = 2**30


@dataclass(frozen=True)
class RenderedReply:
    """A prompt's token ids, and those of the base model's reply to it, which may be empty."""

    prompt_ids: list[int]
    reply_ids: list[int]


def reply_tokens_that_fit(prompts: int, vocabulary: int) -> int:
    """Return how many reply tokens a prompt may have, so that the file of distributions stays below `FILE_BYTES`."""
    return max(1, min(REPLY_TOKENS, FILE_BYTES // (2 * vocabulary * max(1, prompts)) - 1))


@torch.inference_mode()
def write_base(
    network: PreTrainedModel, replies: Sequence[RenderedReply], file: Path, on_progress: Callable[[int], None]
) -> None:
    """Write the base's log-probabilities at every position of the replies to `file`, for `divergence_sums` to read."""
    count = 0
    with file.open("wb") as out:
        for batch, logits in _forwards(network, replies):
            for chunk_NV in (chunk for row_NV in logits for chunk in chunks(row_NV)):
                out.write(chunk_NV.float().log_softmax(dim=-1).half().cpu().numpy().tobytes())
            count += len(batch)
            on_progress(count)


@torch.inference_mode()
def divergence_sums(
    network: PreTrainedModel, replies: Sequence[RenderedReply], file: Path, on_progress: Callable[[int], None]
) -> Floats:
    """Return for each reply the sum of KL, its positions, and those where both rank the same token first: (rows, 3)."""
    sums = np.zeros((len(replies), 3))
    count = 0
    with file.open("rb") as stream:
        for batch, logits in _forwards(network, replies):
            for index, row_NV in zip(batch, logits, strict=True):
                for tuned_NV in chunks(row_NV):
                    base_NV = _read(stream.read(tuned_NV.numel() * 2), tuned_NV)
                    sums[index] += _divergence(base_NV, tuned_NV)
            count += len(batch)
            on_progress(count)
        if stream.read(1):
            raise NotSupported(
                "The tuned model's vocabulary is smaller than its base's: their distributions differ in size."
            )
    return sums


def _forwards(network: PreTrainedModel, replies: Sequence[RenderedReply]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Yield batches, the same for every network, with each row's logits at its reply positions."""
    lengths = [len(reply.prompt_ids) + len(reply.reply_ids) for reply in replies]
    for batch in batches_by_length(lengths, len(replies), tokens_at_once(network)):
        rows = [replies[i] for i in batch]
        positions = [range(len(row.prompt_ids), len(row.prompt_ids) + len(row.reply_ids) + 1) for row in rows]
        yield batch, reply_logits(network, [row.prompt_ids + row.reply_ids for row in rows], positions)


def _read(data: bytes, like_NV: Tensor) -> Tensor:
    if len(data) != like_NV.numel() * 2:
        raise NotSupported(
            "The tuned model's vocabulary is larger than its base's: their distributions differ in size."
        )
    halves = np.frombuffer(data, dtype=np.float16).reshape(tuple(like_NV.shape))
    return torch.from_numpy(halves.astype(np.float32)).to(like_NV.device).log_softmax(dim=-1)


def _divergence(base_NV: Tensor, tuned_NV: Tensor) -> tuple[float, float, float]:
    """Return sum of KL, positions, and equal top tokens. `base_NV`: log-probabilities; `tuned_NV`: logits."""
    log_tuned_NV = tuned_NV.float().log_softmax(dim=-1)
    share_NV = base_NV.exp()
    terms_NV = torch.where(share_NV > 0, share_NV * (base_NV - log_tuned_NV), 0.0)
    same = (base_NV.argmax(dim=-1) == log_tuned_NV.argmax(dim=-1)).sum()
    return float(terms_NV.sum()), float(len(base_NV)), float(same)
