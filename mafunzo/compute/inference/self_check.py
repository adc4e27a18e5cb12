"""The self-check of an executor: it runs the same rows as the reference does, and is refused where its answers differ.

Two sequences, a short one and one that is longer than the sliding window, run as the engine would run them: the second in two
chunks, beside the first one's next tokens; then both, token by token; the blocks of neither lie together. Both executors are
given the tokens that the reference chooses, so that each step is compared by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mafunzo.compute.inference.block_pool import BLOCK_TOKENS, block_count
from mafunzo.compute.inference.executor import Executor, Row

SHORT, LONG, STEPS = 5, 2 * BLOCK_TOKENS + 16, 6
BEYOND = BLOCK_TOKENS
"""How far the long sequence goes beyond the window."""
LONGEST = 2048
"""A longer window isn't reached: that would take minutes. What each layer's window is, is compared besides."""


@dataclass(frozen=True)
class Tolerance:
    """How far two executors may be apart: the distance of a token's logits, in lengths of the reference's (both centred)."""

    distance: float


EXACT, ROUNDED = Tolerance(1e-3), Tolerance(0.15)
"""In float32, where the chosen tokens have to be equal too; and in bfloat16, whose own rounding shows."""


def difference(candidate: Executor, reference: Executor, window: int, tolerance: Tolerance) -> str | None:
    """Return in words where the answers of two executors differ, or None. window: the network's sliding window, 0 for none."""
    longest = min(candidate.max_model_len, reference.max_model_len) - STEPS
    beyond = window + BEYOND if window <= LONGEST else LONG
    long = max(2, min(max(LONG, beyond), longest))
    prompts = [_tokens(min(SHORT, longest), 1, reference.vocab_size), _tokens(long, 2, reference.vocab_size)]
    try:
        return _compared(candidate, reference, prompts, tolerance)
    finally:
        candidate.clear()
        reference.clear()


def _compared(
    candidate: Executor, reference: Executor, prompts: Sequence[Sequence[int]], tolerance: Tolerance
) -> str | None:
    done = [0, 0]
    pending = [list(prompt) for prompt in prompts]
    half = len(pending[1]) // 2
    for step in range(STEPS):
        parts = [pending[0], pending[1][:half] if step == 0 else pending[1]]
        rows = [
            Row(part, start, _table(number, start + len(part)))
            for number, (part, start) in enumerate(zip(parts, done, strict=True))
        ]
        expected, actual = reference.forward(rows), candidate.forward(rows)
        for number, row in enumerate(rows):
            if why := _apart(actual[number][-1], expected[number][-1], tolerance):
                return f"after {row.end} tokens {why}"
            done[number] = row.end
            rest = pending[number][len(row.token_ids) :]
            pending[number] = rest or [int(expected[number][-1].argmax())]
    return None


def _apart(actual_V: Tensor, expected_V: Tensor, tolerance: Tolerance) -> str | None:
    actual, expected = (logits.float() - logits.float().mean() for logits in (actual_V, expected_V))
    distance = float((actual - expected).norm() / expected.norm().clamp_min(1e-9))
    if not distance <= tolerance.distance:  # also where it isn't a number
        return f"the logits are {distance:.2g} apart, expected {tolerance.distance:g} at most"
    first, second = expected.topk(2).values.tolist()
    is_tie = first - second <= 4 * float((actual - expected).abs().max())
    if tolerance is EXACT and not is_tie and int(actual.argmax()) != int(expected.argmax()):
        return "another token is chosen"
    return None


def _tokens(count: int, seed: int, vocab_size: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (count,), generator=generator).tolist()


def _table(number: int, tokens: int) -> tuple[int, ...]:
    """Return the blocks of a sequence, so that those of the two alternate."""
    return tuple(number + 2 * index for index in range(block_count(tokens)))
