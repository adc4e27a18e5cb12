"""Rows attend at their own positions, as the library's own kernel would."""

from types import SimpleNamespace

import pytest
import torch
from transformers.masking_utils import causal_mask_function

from mafunzo.compute.inference.attention import attend_by_rows, row_attention, row_mask
from mafunzo.errors import NotSupported
from tests.support.tiny_network import make_network

MODULE = torch.nn.Module()


def test_each_row_sees_the_keys_up_to_its_own_position() -> None:
    offsets = torch.tensor([[0], [2]])
    mask = row_mask(batch_size=2, q_length=1, kv_length=4, q_offset=offsets, mask_function=causal_mask_function)
    assert mask is not None and mask.shape == (2, 1, 1, 4)
    assert mask[:, 0, 0].tolist() == [[True, False, False, False], [True, True, True, False]]


def test_rows_of_one_position_may_leave_the_mask_to_the_kernel_but_not_with_a_soft_cap() -> None:
    options = {"batch_size": 1, "q_length": 3, "kv_length": 3, "q_offset": 0, "mask_function": causal_mask_function}
    assert row_mask(**options, allow_is_causal_skip=True) is None
    capped = SimpleNamespace(attn_logit_softcapping=30.0)
    assert row_mask(**options, allow_is_causal_skip=True, config=capped) is not None


def test_a_soft_cap_so_wide_that_it_caps_nothing_is_plain_attention() -> None:
    query, key, value = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    MODULE.is_causal = True  # type: ignore[assignment]
    plain, _ = row_attention(MODULE, query, key, value, mask)
    capped, _ = row_attention(MODULE, query, key, value, mask, softcap=1e4)
    torch.testing.assert_close(capped, plain, rtol=1e-4, atol=1e-5)
    tight, _ = row_attention(MODULE, query, key, value, mask, softcap=0.1)
    assert not torch.allclose(tight, plain, atol=1e-2)


def test_attention_sinks_are_refused() -> None:
    with pytest.raises(NotSupported, match="attention sinks"):
        row_attention(MODULE, *torch.zeros(3, 1, 1, 1, 2), None, s_aux=torch.zeros(1))


def test_layers_of_an_unknown_kind_are_named() -> None:
    network = make_network("llama")
    network.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(NotSupported, match="can't be served in batches: it has layers of type linear_attention"):
        attend_by_rows(network)
