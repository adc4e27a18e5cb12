"""Packed attention: causal, over sequences that lie behind each other in one line, none of which sees another.

The field calls it variable-length attention (FlashAttention's `cu_seqlens`), and the batch padding-free. Two sequences of
5 and 3 tokens in a line of T = 8, and what a query (a line of the picture) sees of the keys (its columns):

        a a a a a b b b
      a x                       one mask of T x T would say this as well, but costs T^2 arithmetic, most of it on
      a x x                     the empty part: sequences of L tokens need the sum of L^2 / 2.
      a x x x
      a x x x x
      a x x x x x
      b           x             bounds = [0, 5, 8]
      b           x x
      b           x x x

The arithmetic goes by blocks of query rows of one sequence, BLOCK = 128 at a time. Of a block `[start, end)` only the keys
`[first, end)` are touched: from the sequence's beginning, or from a sliding window before the block. No mask but at the two
edges:

        first          start     end
          |              |        |
      q   | x x x x x x x x .     |    . the causal triangle, in the last end - start columns
      q   | x x x x x x x x x .   |
      q   |   x x x x x x x x x   |    with a window, its far edge is a triangle too

The backward pass needs the attention weights P = softmax(S) again. Where they are small they are saved; else they are
computed a second time from queries and keys, block by block (activation recomputation), which is what lets a long sequence
fit. With O = P V, and dO arriving, as in FlashAttention (Dao et al. 2022, appendix B):

    dV = P^T dO        dP = dO V^T        dS = P * (dP - rowsum(dO * O))        dQ = dS K        dK = dS^T Q

where rowsum(dO * O) equals rowsum(P * dP), and is found without a pass over P.

The invariants: a block reads and writes only inside of its own sequence, so that changing a sequence changes no other's
output by a bit; sums over blocks (dK, dV) are float32; every query has a key, itself, so that no softmax is over nothing.

Registered with transformers as `mafunzo_packed`. Legend: T tokens of the line, L of one sequence, H query heads, K key
heads, G = H / K query heads that share a key head, D the width of a head, B rows of a block.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mafunzo.errors import NotSupported

PACKED = "mafunzo_packed"
RECORDED = "mafunzo_recorded"
BLOCK = 128
SAVED_BYTES = 16 * 2**20
"""Attention weights of a layer, of all sequences of a pass together, are saved for the backward pass up to this size."""
_LIMIT = "saved_attention_bytes"


def register() -> None:
    """Register the attention `mafunzo_packed` with transformers."""
    AttentionInterface.register(PACKED, packed_attention)


def limit_saved(network: nn.Module, layer_bytes: int) -> None:
    """Save no more than so many bytes of attention weights a layer for the backward pass; the rest is computed again."""
    for module in network.modules():
        setattr(module, _LIMIT, layer_bytes)


@dataclass(frozen=True)
class Call:
    """What an architecture asked of its attention function. dropout: the share of attention weights that is zeroed."""

    sliding_window: int | None
    dropout: float


@contextmanager
def recorded(name: str) -> Iterator[tuple[str, list[Call]]]:
    """Register a wrapper of the attention `name` that records each of its calls, and computes it without dropout."""
    calls: list[Call] = []
    inner = ALL_ATTENTION_FUNCTIONS[name]

    def record(*args: Any, **keywords: Any) -> Any:
        calls.append(Call(keywords.get("sliding_window"), float(keywords.get("dropout") or 0.0)))
        return inner(*args, **{**keywords, "dropout": 0.0})

    AttentionInterface.register(RECORDED, record)
    yield RECORDED, calls


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend in each sequence alone; `query` is (1, H, T, D), `key` and `value` (1, K, T, D), the result (1, T, H, D).

    cu_seq_lens_q: the sequences' bounds, (sequences + 1) whole numbers from 0 to T; None means one sequence.
    sliding_window: how many tokens back a token sees, itself among them. softcap: scores become `c tanh(score / c)`.
    Raises `NotSupported` for what an architecture asks beyond that.
    """
    unsupported = [name for name in ("s_aux", "position_bias", "cache") if more.get(name) is not None]
    if attention_mask is not None:
        unsupported.append("attention_mask")
    if not getattr(module, "is_causal", True):
        unsupported.append("attention in both directions")
    if dropout:
        unsupported.append("dropout of attention weights")
    if unsupported or query.shape[0] != 1:
        raise NotSupported(
            f"{type(module).__name__} can't attend in packed rows: {', '.join(unsupported) or 'several rows'}."
        )
    bounds = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    dtype = value.dtype
    window = sliding_window or 0
    if query.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            out: Tensor = _Attention.apply(
                query[0].to(dtype),
                key[0].to(dtype),
                value[0],
                bounds,
                scale,
                window,
                softcap or 0.0,
                getattr(module, _LIMIT, SAVED_BYTES),
            )  # type: ignore[no-untyped-call]
        return out.unsqueeze(0), None
    return _by_sdpa(query.to(dtype), key.to(dtype), value, bounds, scale, window, softcap), None


class _Attention(torch.autograd.Function):
    """Attention by blocks of query rows, as plain matrix products.

    torch's own kernel for CPUs reaches a tenth of what its matrix product does in bfloat16. Query heads that share a key
    head are stacked into one product. Scores have the dtype of the inputs, as in the architectures' own eager attention;
    their softmax is computed in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTD: Tensor,
        bounds: list[int],
        scale: float,
        window: int,
        softcap: float,
        saved_bytes: int,
    ) -> Tensor:
        heads, tokens, width = query_HTD.shape
        groups = heads // key_KTD.shape[0]
        query = (query_HTD * scale).view(-1, groups, tokens, width)  # (K, G, T, D)
        out = torch.empty(tokens, heads, width, dtype=value_KTD.dtype)
        out_view = out.view(tokens, -1, groups, width)
        saved: list[Tensor] = []
        saves = not softcap and weights_bytes(heads, bounds, query.element_size()) <= saved_bytes
        for block in _blocks(bounds, window):
            first, start, end = block
            weights = _weights(query, key_KTD, block, window, softcap)[0]
            mixed = torch.bmm(weights, value_KTD[:, first:end])
            out_view[start:end] = mixed.view(-1, groups, end - start, width).permute(2, 0, 1, 3)
            if saves:
                saved.append(weights)
        ctx.save_for_backward(query, key_KTD, value_KTD, out, *saved)
        ctx.options = bounds, scale, window, softcap
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key_KTD, value_KTD, out, *saved = ctx.saved_tensors
        bounds, scale, window, softcap = ctx.options
        kv_heads, groups, tokens, width = query.shape
        d_out = grads[0].view(tokens, kv_heads, groups, width).permute(1, 2, 0, 3)
        # rowsum(dO * O), one number for each query and head
        inner = (grads[0] * out).sum(-1, dtype=torch.float32).view(tokens, kv_heads, groups).permute(1, 2, 0)
        inner = inner.to(out.dtype).unsqueeze(-1)
        d_query = torch.empty_like(query)
        d_key = torch.zeros_like(key_KTD, dtype=torch.float32)
        d_value = torch.zeros_like(d_key)
        for index, block in enumerate(_blocks(bounds, window)):
            first, start, end = block
            slope = None
            if saved:
                weights = saved[index]
            else:
                weights, slope = _weights(query, key_KTD, block, window, softcap)
            d_mixed = d_out[:, :, start:end].reshape(kv_heads, -1, width)
            d_value[:, first:end] += torch.bmm(weights.transpose(1, 2), d_mixed)
            # dS, written over dP: P * (dP - rowsum(dO * O))
            d_scores = torch.bmm(d_mixed, value_KTD[:, first:end].transpose(1, 2))
            d_scores.sub_(inner[:, :, start:end].reshape(kv_heads, -1, 1)).mul_(weights)
            if slope is not None:  # S = c tanh(s / c), so ds = dS (1 - tanh^2)
                d_scores.mul_(slope)
            d_query[:, :, start:end] = torch.bmm(d_scores, key_KTD[:, first:end]).view(kv_heads, groups, -1, width)
            rows = query[:, :, start:end].reshape(kv_heads, -1, width)
            d_key[:, first:end] += torch.bmm(d_scores.transpose(1, 2), rows)
        d_query_HTD = d_query.mul_(scale).view(kv_heads * groups, tokens, width)
        return d_query_HTD, d_key.to(key_KTD.dtype), d_value.to(value_KTD.dtype), None, None, None, None, None


def _blocks(bounds: list[int], window: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first key, first query, end of both) for each block of rows."""
    for low, high in itertools.pairwise(bounds):
        for start in range(low, high, BLOCK):
            end = min(start + BLOCK, high)
            yield (max(low, start - window + 1) if window else low), start, end


def _weights(
    query_KGTD: Tensor, key_KTD: Tensor, block: tuple[int, int, int], window: int, softcap: float
) -> tuple[Tensor, Tensor | None]:
    """Return the attention weights of a block, (K, G * B, keys), and the slope of the soft cap where there is one."""
    first, start, end = block
    kv_heads, groups, _, width = query_KGTD.shape
    # The G heads of a key head are stacked into one tall matrix, (G * B, D), so that keys are read once for all of them.
    rows = query_KGTD[:, :, start:end].reshape(kv_heads, groups * (end - start), width)
    scores = torch.bmm(rows, key_KTD[:, first:end].transpose(1, 2))
    slope = None
    if softcap:
        ratio = torch.tanh(scores / softcap)
        scores, slope = ratio * softcap, 1 - ratio * ratio
    by_head = scores.view(kv_heads, groups, end - start, end - first)
    queries = torch.arange(start, end).unsqueeze(1)
    keys = torch.arange(first, end)
    if window:
        by_head.masked_fill_((keys > queries) | (keys <= queries - window), float("-inf"))
    else:
        by_head[..., start - first :].masked_fill_(keys[start - first :] > queries, float("-inf"))
    return torch.softmax(scores, -1), slope


def weights_bytes(heads: int, bounds: Sequence[int], element_bytes: int) -> int:
    """Return the bytes of the attention weights of all sequences, over all heads."""
    lengths = [high - low for low, high in itertools.pairwise(bounds)]
    return heads * sum(length * (length + BLOCK) // 2 for length in lengths) * element_bytes


def _by_sdpa(
    query: Tensor, key: Tensor, value: Tensor, bounds: list[int], scale: float, window: int, softcap: float | None
) -> Tensor:
    """Attend by torch's fused kernel, sequence by sequence; the way of devices without FlashAttention's package."""
    if softcap:
        raise NotSupported("A soft cap on attention scores needs flash-attn on this device: pip install flash-attn.")
    groups = query.shape[1] // key.shape[1]
    parts = []
    for low, high in itertools.pairwise(bounds):
        mask = None
        if window and high - low > window:
            position = torch.arange(high - low, device=query.device)
            back = position.unsqueeze(1) - position
            mask = (back >= 0) & (back < window)
        parts.append(
            nn.functional.scaled_dot_product_attention(
                query[:, :, low:high],
                key[:, :, low:high].repeat_interleave(groups, 1),
                value[:, :, low:high].repeat_interleave(groups, 1),
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()
