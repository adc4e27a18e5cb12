"""The memory plan: how many tokens share a forward pass, so that a run fits into the memory that is free.

What a pass keeps for its backward pass grows with its tokens, and is nearly all that training takes beside the weights: some
2.5 MB a token for 135M parameters in float32. It is counted in one pass over the longest row. Beyond a thousand tokens or so a
CPU gets no faster; a GPU needs more to be busy.

    the rows of a step       512 300 200 100 480 90        planned: 1,024 tokens a pass
    its forward passes       512 300 200 | 100 480 90      gradients add up, so that the step is the same whatever the plan

The invariant: the plan decides how rows are grouped, never which rows a step has; loss and gradient stay but for rounding.
The number is a power of two, so that a little more or less free memory plans the same, to the bit.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from mafunzo.compute.device.memory import free_bytes, used_bytes
from mafunzo.compute.training.batch import pack
from mafunzo.compute.training.run import Run
from mafunzo.errors import OutOfMemory

logger = logging.getLogger(__name__)

MOST_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a forward pass from which on training gets no faster."""
SHARE = 0.7
"""The share of the free memory that is planned with: others' work and the allocator's gaps need the rest."""
HEADROOM = 1.25
"""What the backward pass takes at its peak, to what the forward pass kept."""


@dataclass(frozen=True)
class MemoryPlan:
    """forward_tokens: tokens that share a forward pass; a longer row has its own. Bytes: as they were then."""

    forward_tokens: int
    bytes_per_token: int
    state_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        return (
            f"up to {self.forward_tokens:,} tokens in a forward pass, {self.bytes_per_token / 2**10:,.0f} KiB each; "
            f"{self.state_bytes / 2**30:.1f} GiB for gradients and the optimizer; {self.free_bytes / 2**30:.1f} GiB are free"
        )


def plan_memory(run: Run) -> MemoryPlan:
    """Return the plan of a run, before its first step; raises `OutOfMemory` where `max_memory_gb` has no room for a row."""
    lengths = [sum(len(ids) for ids, _ in run.rows.row(index)) for index in range(len(run.rows))]
    longest = max(lengths)
    free, state, used = free_bytes(run.device), _state_bytes(run), used_bytes(run.device)  # before a pass is counted
    free //= run.ranks.processes_on(run.device)
    per_token = _kept_bytes(run, lengths.index(longest))
    budget = free * SHARE - state
    if limit := run.arguments.max_memory_gb * 1e9:
        held = used + state
        _require_row(longest, held + longest * per_token * HEADROOM, limit)
        budget = min(budget, limit - held)
    tokens = forward_tokens(budget, per_token * HEADROOM, MOST_TOKENS.get(run.device.type, 1024))
    return MemoryPlan(tokens, round(per_token), state, free)


def _require_row(tokens: int, needed_bytes: float, limit_bytes: float) -> None:
    if needed_bytes > limit_bytes:
        raise OutOfMemory(
            f"max_memory_gb is {limit_bytes / 1e9:g}, and training needs about {needed_bytes / 1e9:.2f} GB: "
            f"the longest row has {tokens:,} tokens. Raise it, "
            "lower max_seq_length, or set gradient_checkpointing or apply_lora true."
        )


def forward_tokens(budget_bytes: float, bytes_per_token: float, most: int) -> int:
    """Return the greatest power of two that the budget has room for, from 1 to `most`."""
    tokens = most
    while tokens > 1 and tokens * bytes_per_token > budget_bytes:
        tokens //= 2
    return tokens


def _state_bytes(run: Run) -> int:
    """Return what the trained weights will need: a gradient, and two numbers of the optimizer's state, each in float32."""
    return 12 * sum(int(weight.numel()) for weight in run.network.parameters() if weight.requires_grad)


def _kept_bytes(run: Run, row: int) -> float:
    """Return the bytes a token that a forward pass over a row keeps for its backward pass."""
    batch = pack([run.rows.row(row)])
    weights = {weight.untyped_storage().data_ptr() for weight in run.network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held until all is counted: addresses must not be used twice

    def count(tensor: Tensor) -> None:  # a tensor handed back would hold the pass that made it, for ever
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage

    run.network.train()  # activations are recomputed in training only
    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda _: torch.empty(0))
    own_device = (
        [run.device] if run.device.type == "cuda" else []
    )  # left out, all GPUs are touched, those of other ranks too
    with torch.random.fork_rng(own_device), hooks, run.autocast():
        run.objective.loss(run.packed, batch)
    return sum(storage.nbytes() for storage in kept.values()) / max(len(batch.ids_T), 1)
