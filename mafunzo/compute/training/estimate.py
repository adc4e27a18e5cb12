"""Estimates before the first step: how long training will take, and an example of what is trained."""

import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mafunzo.compute.chat.examples import IGNORED
from mafunzo.compute.training.batch import Ints, Rows
from mafunzo.compute.training.data_order import DataOrder

# The share of the bare matrix product's speed that whole training steps reached (2 cores, bfloat16, 135M parameters).
EFFICIENCY = 0.4


def estimate_s(
    network: PreTrainedModel, rows: Rows, order: DataOrder, dtype: torch.dtype, device: torch.device, is_lora: bool
) -> float:
    """Return the seconds that all steps may take: their operations, at a share of a matrix product's speed measured now."""
    tokens = rows.tokens * order.epoch_after(order.total_steps)
    share_trained = rows.trained_tokens / rows.tokens
    body = float(network.num_parameters(exclude_embeddings=True))
    head = int(network.get_output_embeddings().weight.numel())
    is_tied = head and network.get_output_embeddings().weight is network.get_input_embeddings().weight
    body -= 0 if is_tied else head
    passes = 4 if is_lora else 6
    operations: float = tokens * passes * (body + share_trained * head)
    return operations / (EFFICIENCY * matmul_flops(dtype, device))


def matmul_flops(dtype: torch.dtype, device: torch.device, size: int = 1024) -> float:
    """Return the operations a second of a square matrix product, measured in some 50 ms."""
    left = torch.ones(size, size, dtype=dtype, device=device)
    left @ left
    _wait(device)
    started, count = time.monotonic(), 0
    while time.monotonic() - started < 0.05:
        left @ left
        _wait(device)
        count += 1
    return count * 2 * size**3 / (time.monotonic() - started)


def rendered_example(prepared: Path, rows: Rows, most_characters: int = 1200) -> str:
    """Return the first row as text, trained pieces in [[ ]], || between sequences, cut in the middle if it is long."""
    folder = prepared / "tokenizer"
    if not folder.is_dir():
        return ""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    text = " || ".join(_rendered(tokenizer, ids, labels) for ids, labels in rows.row(0))
    half = most_characters // 2
    return text if len(text) <= most_characters else f"{text[:half]} [...] {text[-half:]}"


def _rendered(tokenizer: PreTrainedTokenizerBase, ids: Ints, labels: Ints) -> str:
    pieces: list[str] = []
    start = 0
    for end in range(1, len(ids) + 1):
        is_trained = labels[start] != IGNORED
        if end == len(ids) or (labels[end] != IGNORED) != is_trained:
            text = tokenizer.decode(ids[start:end].tolist())
            pieces.append(f"[[{text}]]" if is_trained else text)
            start = end
    return "".join(pieces)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
