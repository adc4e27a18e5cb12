"""The head loss: the sum of negative log-probabilities at the targets (cross entropy), without ever keeping all logits.

The idea. Logits are the largest tensor of training: 4,096 positions times a vocabulary of 150,000 are 1.2 GB in bfloat16,
and autograd would keep them in float32, and their softmax, and their gradient. But the loss is one number, and its
derivative by the logits needs nothing that comes later:

    logits z = softcap(multiplier * (W h + b))        p = softmax(z)        loss = -sum log p[target]
    d loss / d z = p - onehot(target)                 (times the softcap's own slope)

So the forward pass goes over the positions in chunks, and of each chunk computes loss *and* gradient, in the same memory:

    hidden_NH   +---------+   a chunk, 256 say  +--------------------------+  R = 32 rows at a time: float32 copy,
                | chunk 0 | --- @ W^T --->      | logits (256 x V), dtype  |  softmax, loss; p - onehot written back
                | chunk 1 |                     +--------------------------+  into the same rows
                | ...     |                          | @ W         | ^T @ chunk
                +---------+                          v             v
                                                d_hidden[chunk]  d_weight += (only if the head is trained)

The backward pass only multiplies by the gradient that arrives (a scalar, since the loss is one).

The invariants: nothing of size N x V outlives a chunk; sums are float32 whatever the dtype; without gradients no gradient is
computed. In the way of Liger Kernel's fused linear cross entropy, in plain torch.

Legend: N positions with a target, H width of the network, V vocabulary, R rows of a part.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 256
"""Positions of a chunk at most: more of them make no product faster. The memory plan may choose fewer."""
PART = 32
"""Positions whose logits are copied to float32 at a time, and of a chunk at least."""
_ROWS = "head_chunk"


@dataclass(frozen=True)
class Head:
    """What turns a hidden state into logits: `softcap(multiplier * (weight x + bias))`; a softcap of 0 is none."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    multiplier: float = 1.0
    softcap: float = 0.0


def limit_chunk(network: nn.Module, positions: int) -> None:
    """Have the network's head make the logits of so many positions at a time."""
    setattr(network, _ROWS, positions)


def chunk_of(network: nn.Module) -> int:
    """Return of how many positions at a time the network's head makes the logits."""
    return int(getattr(network, _ROWS, CHUNK))


def chunk_bytes(positions: int, vocabulary: int, element_bytes: int) -> int:
    """Return what the logits of a chunk take, with the float32 copy and softmax of a part of them."""
    return positions * vocabulary * element_bytes + 3 * PART * vocabulary * 4


def head_loss(hidden_NH: Tensor, head: Head, targets_N: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Return the summed loss in nats and the number of positions whose likeliest token is the target.

    Logits exist for `chunk` positions at a time; where gradients are wanted they are computed in the same pass, so that
    nothing of size N x V is kept.
    """
    wants_grad = torch.is_grad_enabled() and (hidden_NH.requires_grad or head.weight_VH.requires_grad)
    with torch.autocast(hidden_NH.device.type, enabled=False):
        loss, correct = _HeadLoss.apply(
            hidden_NH, head.weight_VH, head.bias_V, targets_N, head.multiplier, head.softcap, wants_grad, chunk
        )  # type: ignore[no-untyped-call]
    return loss, correct


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        multiplier: float,
        softcap: float,
        wants_grad: bool,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = hidden_NH.dtype
        weight = weight_VH.to(dtype)
        needs_hidden = wants_grad and ctx.needs_input_grad[0]
        needs_weight = wants_grad and ctx.needs_input_grad[1]
        needs_bias = wants_grad and ctx.needs_input_grad[2]
        loss = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden_NH.device)
        d_hidden = torch.empty_like(hidden_NH) if needs_hidden else None
        d_weight = torch.zeros_like(weight_VH, dtype=torch.float32) if needs_weight else None
        d_bias = torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias and bias_V is not None else None
        n_positions = hidden_NH.shape[0]
        # One buffer for all chunks: a name that is given the next logits still holds those before while they are made.
        buffer = hidden_NH.new_empty(min(chunk, n_positions), weight.shape[0])
        for start in range(0, n_positions, chunk):
            end = min(start + chunk, n_positions)
            hidden = hidden_NH[start:end]
            logits = torch.matmul(hidden, weight.t(), out=buffer[: end - start])
            for low in range(0, end - start, PART):
                part = logits[low : low + PART]
                targets = targets_N[start + low : start + low + PART]
                part_loss, part_correct = _in_part(part, bias_V, targets, multiplier, softcap, wants_grad)
                loss += part_loss
                correct += part_correct
            # From here on `logits` holds the derivative by them: `_in_part` has written over it.
            if d_hidden is not None:
                torch.matmul(logits, weight, out=d_hidden[start:end])
            if d_weight is not None:
                d_weight += logits.t() @ hidden
            if d_bias is not None:
                d_bias += logits.sum(0, dtype=torch.float32)
        ctx.scale = multiplier
        ctx.dtypes = weight_VH.dtype, None if bias_V is None else bias_V.dtype
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        # The multiplier acts once more on the way back: d z / d (W h + b). grads[1] belongs to `correct`, which has none.
        scale = float(grads[0]) * ctx.scale
        return (
            None if d_hidden is None else d_hidden.mul_(scale),
            None if d_weight is None else d_weight.mul_(scale).to(weight_dtype),
            None if d_bias is None else d_bias.mul_(scale).to(bias_dtype),
            None,
            None,
            None,
            None,
            None,
        )


def _in_part(
    logits_RV: Tensor, bias_V: Tensor | None, targets_R: Tensor, multiplier: float, softcap: float, wants_grad: bool
) -> tuple[Tensor, Tensor]:
    """Return loss and hits of a few rows; if `wants_grad`, the logits are overwritten by the loss's derivative.

    Few rows at a time, because their float32 copy then stays in the processor's cache.
    """
    exact = logits_RV.float()
    if bias_V is not None:
        exact += bias_V
    if multiplier != 1.0:
        exact *= multiplier
    if softcap:
        exact = torch.tanh(exact / softcap) * softcap
    rows = torch.arange(exact.shape[0], device=exact.device)
    at_target = exact[rows, targets_R]
    highest = exact.amax(-1)
    correct = (at_target >= highest).sum()
    if not wants_grad:
        return (torch.logsumexp(exact, -1) - at_target).sum(), correct
    # log sum exp(z) without a second pass over V: the likeliest token has p = exp(highest - log_sum).
    probability = torch.softmax(exact, -1)
    log_sum = highest - probability.amax(-1).log()
    probability[rows, targets_R] -= 1.0
    if softcap:  # d softcap(x) / d x = 1 - tanh(x / c)^2, and `exact` is c tanh(x / c) by now
        probability *= 1 - (exact / softcap).square()
    logits_RV.copy_(probability)
    return (log_sum - at_target).sum(), correct
