"""How any network of `transformers` attends to the sequences of a `PagedCache`, without code for its architecture.

A network asks the library for its masks, and describes each by a pattern over positions: causal, sliding, chunked. Here a
mask and an attention function are registered under a name of our own, and the network is told to use them. A forward runs
the tokens of all its rows in one line; what each row sees is the network's own pattern, evaluated at the row's own
positions (`row_mask`), and each row attends to its own blocks (`row_attention`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from mafunzo.compute.inference.kv_cache import Run, Segment, Window, clipped
from mafunzo.errors import NotSupported

NAME = "mafunzo_paged"
ROW_BY_ROW = frozenset({"cpu"})
"""Devices where one call a row costs less than gathering the keys of all rows for one call; others start work too slowly."""
SPLIT_FROM = 1 << 20
"""From so many numbers of keys and values on, runs that lie apart are attended to apart rather than concatenated.

Measured on one AVX-512 core, rows of 264 tokens, 192 of them shared: 16 rows with 32 key heads of 96 took 10 ms a layer, and
concatenated 62; 4 rows with 3 key heads of 64 took 0.9 and 0.4.
"""
KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}

Pattern = Callable[..., Tensor]
"""(row, head, query's position, key's position) to whether the key is seen."""


@dataclass(frozen=True)
class View:
    """What one row sees: the runs of its keys, and of them which query sees which, [1, 1, queries, keys].

    mask: None where each query sees all of them, or, with `is_causal`, those up to its own position.
    """

    columns: slice
    runs: tuple[Run, ...]
    mask: Tensor | None = None
    is_causal: bool = False

    @property
    def is_split(self) -> bool:
        """Whether it is one query that sees all keys of several runs."""
        return len(self.runs) > 1 and self.mask is None and self.columns.stop - self.columns.start == 1


@dataclass(frozen=True)
class Together:
    """Rows of one query that are attended to in one call: their columns, where the keys of each lie (padded), and the mask."""

    columns_B: Tensor
    places_BL: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Views:
    """What all rows of a forward see by one pattern: our mask, in the place of the library's tensor."""

    rows: tuple[View, ...]
    together: Together | None = None


def attend_by_rows(network: PreTrainedModel) -> None:
    """Make a network mask and attend by rows. Without a `PagedCache` it computes what it computed before."""
    config = network.config.get_text_config()
    unknown = sorted(set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS)
    if unknown or not network._can_set_attn_implementation():
        why = f"it has layers of type {', '.join(unknown)}" if unknown else "its attention can't be chosen"
        raise NotSupported(f"{type(network).__name__} can't be served in batches: {why}.")
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, row_mask)
    ALL_ATTENTION_FUNCTIONS.register(NAME, row_attention)
    network.set_attn_implementation(NAME)


def row_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor | Window,
    mask_function: Pattern,
    **options: Any,
) -> Tensor | Views | None:
    """Return which keys each query sees: `Views` in a forward over a `PagedCache`, else what `sdpa_mask` returns."""
    if isinstance(q_offset, Window):
        return _views(q_offset, mask_function)
    if getattr(options.get("config"), "attn_logit_softcapping", None) is not None:
        options["allow_is_causal_skip"] = False
    mask: Tensor | None = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        mask_function=mask_function,
        **options,
    )
    return mask


def row_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Views | None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend row by row; with the library's fused kernel, or by hand where scores are soft-capped (Gemma 2), which it can't do.

    With `Views`, `key` and `value` are all that a layer of a `PagedCache` holds.
    """
    if s_aux is not None:
        raise NotSupported(f"{type(module).__name__} has attention sinks, which this engine doesn't compute.")
    if not isinstance(attention_mask, Views):
        return _attend(module, query, key, value, attention_mask, softcap, options), None
    _, heads, count, _ = query.shape
    output = query.new_empty((1, count, heads, value.shape[-1]))
    if attention_mask.together is not None:
        columns = attention_mask.together.columns_B
        output[0, columns] = _attend_together(module, query, key, value, attention_mask.together, softcap, options)
    rows = attention_mask.rows
    if query.device.type == "cpu" and softcap is None and key.shape[-1] == value.shape[-1]:
        apart = [row for row in rows if row.is_split]
        tokens = sum(length for row in apart for _, length in row.runs)
        if apart and 2 * tokens * key.shape[1] * key.shape[3] >= SPLIT_FROM:
            columns = torch.tensor([row.columns.start for row in apart])
            output[0, columns] = _attend_split(query, key, value, apart, options.get("scaling"))
            rows = tuple(row for row in rows if not row.is_split)
    for row in rows:
        q = query[:, :, row.columns]
        if q.shape[2] == 1 and row.mask is None and softcap is None:
            output[:, row.columns] = _attend_one(q, key, value, row.runs, options.get("scaling"))
        else:
            mask = _causal_mask(q.shape[2], q.device) if row.is_causal and softcap is not None else row.mask
            keys, values = _joined(key, row.runs), _joined(value, row.runs)
            output[:, row.columns] = _attend(module, q, keys, values, mask, softcap, options)
    return output, None


def _views(window: Window, pattern: Pattern) -> Views:
    views = _single_views([segment for segment in window.segments if segment.count == 1], pattern, window)
    views += [_view(segment, pattern, window) for segment in window.segments if segment.count > 1]
    device = window.positions.device
    unmasked = [view for view in views if view.mask is None and not view.is_causal]
    if device.type in ROW_BY_ROW or len(unmasked) < 2:
        return Views(tuple(views))
    others = tuple(view for view in views if view.mask is not None or view.is_causal)
    return Views(others, _together(unmasked, device))


def _together(views: Sequence[View], device: torch.device) -> Together:
    places = [[place for start, length in view.runs for place in range(start, start + length)] for view in views]
    lengths_B = torch.tensor([len(row) for row in places], device=device)
    longest = max(len(row) for row in places)
    return Together(
        torch.tensor([view.columns.start for view in views], device=device),
        torch.tensor([row + row[:1] * (longest - len(row)) for row in places], device=device),
        (torch.arange(longest, device=device) < lengths_B[:, None])[:, None, None],
    )


def _single_views(segments: Sequence[Segment], pattern: Pattern, window: Window) -> list[View]:
    """Return what rows of one query see. All known patterns show it the keys from some position on, which need no mask."""
    if not segments or pattern is causal_mask_function:
        return [View(segment.columns, segment.runs) for segment in segments]
    device = window.positions.device
    queries = torch.tensor([segment.start for segment in segments], device=device)[:, None, None, None]
    seen = _evaluated(pattern, queries, torch.arange(max(s.end for s in segments), device=device))[:, 0, 0]
    views = []
    for segment, row in zip(segments, seen, strict=True):
        row = row[: segment.end]
        first, count = int(row.int().argmax()), int(row.sum())
        if bool(row[first : first + count].all()):
            views.append(View(segment.columns, clipped(segment.runs, first, count)))
        else:
            views.append(View(segment.columns, segment.runs, row[None, None, None]))
    return views


def _view(segment: Segment, pattern: Pattern, window: Window) -> View:
    """Return what a row of several queries sees."""
    if segment.start == 0 and pattern is causal_mask_function:
        return View(segment.columns, segment.runs, is_causal=True)
    device = window.positions.device
    queries = torch.arange(segment.start, segment.end, device=device)[None, None, :, None]
    mask = _evaluated(pattern, queries, torch.arange(segment.end, device=device))
    if segment.start == 0 and torch.equal(mask, _causal_mask(segment.count, device)):
        return View(segment.columns, segment.runs, is_causal=True)
    return View(segment.columns, segment.runs, mask)


def _evaluated(pattern: Pattern, queries: Tensor, keys: Tensor) -> Tensor:
    """Return a pattern at positions, [rows, 1, queries, keys]; `queries` has that shape already, with one key."""
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=keys.device)
    return pattern(zero, zero, queries, keys[None, None, None, :]).expand(*queries.shape[:3], len(keys))


def _causal_mask(count: int, device: torch.device) -> Tensor:
    return torch.ones((count, count), dtype=torch.bool, device=device).tril()[None, None]


def _attend_one(query: Tensor, key: Tensor, value: Tensor, runs: Sequence[Run], scaling: float | None) -> Tensor:
    """Return one token's attention to all keys of its runs, [1, 1, heads, D].

    The query heads that share a key head stand where the kernel expects several queries, so that no key is copied for them.
    """
    _, heads, _, width = query.shape
    q = query.reshape(1, key.shape[1], heads // key.shape[1], width)
    k, v = _joined(key, runs), _joined(value, runs)
    return scaled_dot_product_attention(q, k, v, scale=scaling).reshape(1, 1, heads, value.shape[-1])


def _attend_split(query: Tensor, key: Tensor, value: Tensor, views: Sequence[View], scaling: float | None) -> Tensor:
    """Return the attention of rows of one token whose keys lie in several runs, [rows, heads, D]; nothing is concatenated.

    A softmax over two runs is the average of the softmax over each, weighted by the sums of their exponentials, whose
    logarithms the kernel tells (as FlashDecoding does). Rows that share a run, a prefix, read it in one call.
    """
    rows_by_run: dict[Run, list[int]] = {}
    for i, view in enumerate(views):
        for run in view.runs:
            rows_by_run.setdefault(run, []).append(i)
    q = query[0][:, [view.columns.start for view in views]]  # [heads, rows, D]
    heads, _, width = q.shape
    groups = heads // key.shape[1]
    outputs, sums = [], []
    for (start, length), rows in rows_by_run.items():
        # [key heads, rows x query heads of each, D]: the rows that share a run are further queries of it.
        queries = q[:, rows].view(key.shape[1], groups, len(rows), width).flatten(1, 2)[None]
        keys, values = (states[:, :, start : start + length] for states in (key, value))
        output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys, values, scale=scaling
        )
        outputs.append(output.reshape(heads, len(rows), width).transpose(0, 1))
        sums.append(log_sum.reshape(heads, len(rows)).t())
    index = torch.tensor([row for rows in rows_by_run.values() for row in rows])
    log_sums, parts = torch.cat(sums), torch.cat(outputs).float()
    largest = log_sums.new_full((len(views), heads), -torch.inf)
    largest.scatter_reduce_(0, index[:, None].expand_as(log_sums), log_sums, "amax")
    weights = (log_sums - largest[index]).exp()
    total = weights.new_zeros((len(views), heads)).index_add_(0, index, weights)
    merged = parts.new_zeros((len(views), heads, width)).index_add_(0, index, parts * weights[..., None])
    return (merged / total[..., None]).to(query.dtype)


def _attend_together(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Together,
    softcap: float | None,
    options: dict[str, Any],
) -> Tensor:
    """Return the attention of rows of one token each to their own keys, [rows, heads, D]."""
    q = query[0][:, rows.columns_B].transpose(0, 1)[:, :, None]
    k, v = (states[0][:, rows.places_BL].transpose(0, 1) for states in (key, value))
    return _attend(module, q, k, v, rows.mask, softcap, options)[:, 0]


def _joined(states: Tensor, runs: Sequence[Run]) -> Tensor:
    """Return the tokens of some runs, [1, heads, tokens, D]: a view where it is one."""
    parts = [states[:, :, start : start + length] for start, length in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    softcap: float | None,
    options: dict[str, Any],
) -> Tensor:
    """Return [rows, queries, heads, D]."""
    if softcap is None:
        output: Tensor = sdpa_attention_forward(module, query, key, value, mask, **options)[0]
        return output
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = query.shape[-1] ** -0.5 if options.get("scaling") is None else options["scaling"]
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return (scores.float().softmax(-1).to(query.dtype) @ value).transpose(1, 2).contiguous()
