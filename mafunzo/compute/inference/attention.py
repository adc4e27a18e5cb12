"""How any network of `transformers` attends to the rows of a `SlotCache`, without code for its architecture.

A network asks the library for its masks, and describes each by a pattern over positions: causal, sliding, chunked. Here a
mask and an attention function are registered under a name of our own, and the network is told to use them. The mask is
the network's own pattern, evaluated at each row's own positions.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from mafunzo.errors import NotSupported

NAME = "mafunzo_slots"
KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def attend_by_rows(network: PreTrainedModel) -> None:
    """Make a network mask and attend by rows. Without a `SlotCache` it computes what it computed before."""
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
    q_offset: int | Tensor,
    mask_function: Callable[..., Tensor],
    **options: Any,
) -> Tensor | None:
    """Return which keys each query sees, [B, 1, queries, keys], or None where the kernel's own causal mask does.

    `q_offset` is a number where all rows start at the same position, else [B, 1].
    """
    if not isinstance(q_offset, Tensor):
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
    device = q_offset.device
    rows = torch.arange(batch_size, device=device)[:, None, None, None]
    heads = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=device)
    queries = (q_offset + torch.arange(q_length, device=device))[:, None, :, None]
    keys = torch.arange(kv_length, device=device)[None, None, None, :]
    return mask_function(rows, heads, queries, keys).expand(batch_size, 1, q_length, kv_length)


def row_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend with the library's fused kernel, or by hand where scores are soft-capped (Gemma 2), which it can't do."""
    if s_aux is not None:
        raise NotSupported(f"{type(module).__name__} has attention sinks, which this engine doesn't compute.")
    if softcap is None:
        output: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
        return output, None
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = query.shape[-1] ** -0.5 if options.get("scaling") is None else options["scaling"]
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    return (scores.float().softmax(-1).to(query.dtype) @ value).transpose(1, 2).contiguous(), None
