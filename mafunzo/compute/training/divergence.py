"""Divergence: whether the training loss rises for long, so that going on only spoils the weights.

The losses of steps are put into blocks of `block_steps`, long enough that their mean says something:

    loss    .                                                    1  the lowest block: what training had reached
            . .                     o o o  o o    o o o o        2  the last RISES blocks, each above that by the margin, and
              . . .          o  o o      o     o                    not falling: it diverges
                    . . . .o
            --------|--------|--------|--------|--------|
                        1            2        2        2

The rule is meant to be silent when in doubt. The margin is a tenth of the lowest mean, at least MARGIN nats, and at least
SIGMAS standard errors of the two means, so that a few rows of very different difficulty don't count; a rise that has ended
doesn't; nor does one during which the validation loss has reached a new low. A rising validation loss alone is overfitting,
which the best checkpoint and early stopping are for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mafunzo.compute.training.state import TrainingState

MARGIN = 0.1
"""Nats by which a block's mean must lie above the lowest, at least."""
SHARE = 0.1
"""The share of the lowest mean that it must lie above it, at least."""
SIGMAS = 4.0
RISES = 3
"""So many blocks at the end must lie above."""
FEWEST_STEPS, BLOCKS = 10, 40
"""Steps of a block at least; into how many blocks a longer run is divided."""


@dataclass(frozen=True)
class Block:
    """The losses of some steps behind each other; last_step: the one that they end with."""

    last_step: int
    mean: float
    error: float


def block_steps(total_steps: int) -> int:
    """Return how many steps a block has."""
    return max(FEWEST_STEPS, -(-total_steps // BLOCKS))


def note(state: TrainingState, loss: float, total_steps: int) -> bool:
    """Count the loss of the state's step in; return whether a block has ended with it."""
    blocks = state.loss_blocks
    if not blocks or blocks[-1]["is_whole"]:
        blocks.append({"steps": 0, "sum": 0.0, "squares": 0.0, "last_step": 0, "is_whole": False})
    block = blocks[-1]
    block["steps"] += 1
    block["sum"] += loss
    block["squares"] += loss * loss
    block["last_step"] = state.step
    block["is_whole"] = block["steps"] >= block_steps(total_steps)
    return bool(block["is_whole"])


def whole_blocks(state: TrainingState) -> list[Block]:
    """Return the blocks that have ended."""
    return [_block(record) for record in state.loss_blocks if record["is_whole"]]


def diverges(blocks: Sequence[Block], best_step: int | None) -> bool:
    """Return whether the loss rises for long. best_step: with the lowest validation loss so far, None without validation."""
    earlier, last = blocks[:-RISES], blocks[-RISES:]
    if not earlier:
        return False
    lowest = min(earlier, key=lambda block: block.mean)
    if best_step is not None and best_step > lowest.last_step:
        return False
    has_risen = all(block.mean > lowest.mean + _margin(lowest, block) for block in last)
    return has_risen and last[-1].mean > last[0].mean - SIGMAS * math.hypot(last[0].error, last[-1].error)


def _margin(lowest: Block, block: Block) -> float:
    return max(MARGIN, SHARE * abs(lowest.mean), SIGMAS * math.hypot(lowest.error, block.error))


def _block(record: dict[str, Any]) -> Block:
    steps = record["steps"]
    mean = record["sum"] / steps
    variance = max(0.0, record["squares"] / steps - mean * mean)
    return Block(int(record["last_step"]), mean, math.sqrt(variance / steps))
