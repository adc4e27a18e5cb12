"""NEFTune: noise on the embeddings while training (Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning").

    embedding of a token  +  uniform(-1, 1) x alpha / sqrt(L x H)         L tokens of its sequence, H width of the network

As transformers and TRL define it, for a sequence that is alone in its row. Of sequences that share a line each has the noise
of its own length, so that packing changes nothing. The noise comes from torch's generator, whose state checkpoints keep: a run
that resumes draws the same.

Legend: T tokens of a line, H width of the network.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_LENGTHS = "_mafunzo_sequence_lengths"


def add_noise(network: PreTrainedModel, alpha: float) -> None:
    """Have the network's embeddings get noise in training mode, wherever `announce` has told the sequences of a pass."""

    def hook(module: nn.Module, _inputs: Any, embeddings_1TH: Tensor) -> Tensor:
        lengths = getattr(network, _LENGTHS, None)
        if not module.training or lengths is None:
            return embeddings_1TH
        scales_T = _scales(lengths, embeddings_1TH.shape[-1], alpha).to(embeddings_1TH)
        return embeddings_1TH + torch.empty_like(embeddings_1TH).uniform_(-1, 1) * scales_T[:, None]

    network.get_input_embeddings().register_forward_hook(hook)


def announce(network: PreTrainedModel, lengths: Sequence[int]) -> None:
    """Tell how many tokens each sequence of the next forward pass has, in the order of its line."""
    setattr(network, _LENGTHS, tuple(lengths))


def _scales(lengths: Sequence[int], width: int, alpha: float) -> Tensor:
    """Return the largest noise of each token, by the length of its sequence."""
    scales = torch.tensor([alpha / math.sqrt(length * width) for length in lengths])
    return scales.repeat_interleave(torch.tensor(lengths))
