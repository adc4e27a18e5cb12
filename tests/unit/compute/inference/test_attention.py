"""Rows attend at their own positions, as the library's own kernel would."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.masking_utils import causal_mask_function

from mafunzo.compute.inference import attention
from mafunzo.compute.inference.attention import View, Views, attend_by_rows, row_attention, row_mask
from mafunzo.compute.inference.executor import Row
from mafunzo.compute.inference.kv_cache import Run, Window
from mafunzo.errors import NotSupported
from tests.support.tiny_network import make_network

MODULE = torch.nn.Module()


def window(*rows: Row) -> Window:
    return Window(rows, torch.device("cpu"))


def views(window: Window, pattern: Any) -> tuple[View, ...]:
    mask = row_mask(batch_size=1, q_length=1, kv_length=1, q_offset=window, mask_function=pattern)
    assert isinstance(mask, Views)
    return mask.rows


def sliding(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return (key <= query) & (key > query - 20)


def every_other(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return (key <= query) & ((query - key) % 2 == 0)


def test_each_row_sees_the_keys_up_to_its_own_position() -> None:
    rows = views(window(Row([7], 2, (4,)), Row([7], 17, (6, 7))), causal_mask_function)
    assert [(view.runs, view.mask) for view in rows] == [(((128, 3),), None), (((192, 18),), None)]


@pytest.mark.parametrize(
    ("blocks", "runs"),
    [
        pytest.param((6, 7, 8), ((238, 20),), id="one run"),
        pytest.param((6, 9, 12), ((302, 18), (384, 2)), id="two runs"),
        pytest.param((9, 4, 1), ((142, 18), (32, 2)), id="backwards"),
    ],
)
def test_a_sliding_window_shortens_what_one_token_reads(blocks: tuple[int, ...], runs: tuple[Run, ...]) -> None:
    [view] = views(window(Row([7], 65, blocks)), sliding)
    assert (view.runs, view.mask) == (runs, None)


def test_a_pattern_with_gaps_is_a_mask() -> None:
    [view] = views(window(Row([7], 4, (0,))), every_other)
    assert view.mask is not None and view.mask.flatten().tolist() == [True, False, True, False, True]


def test_a_whole_prompt_within_the_window_leaves_the_mask_to_the_kernel_and_a_later_chunk_does_not() -> None:
    whole, chunk, long = views(window(Row([7] * 9, 0, (0,)), Row([7] * 3, 2, (1,)), Row([7] * 30, 0, (2, 3))), sliding)
    assert whole.is_causal and whole.mask is None
    assert chunk.mask is not None and chunk.mask[0, 0].tolist() == [
        [True, True, True, False, False], [True, True, True, True, False], [True] * 5
    ]  # fmt: skip
    assert long.mask is not None and long.mask[0, 0].sum(-1).tolist() == [min(i + 1, 20) for i in range(30)]


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


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("split_from", [0, 1 << 20], ids=["apart", "concatenated"])
def test_runs_that_lie_apart_are_attended_to_as_if_they_were_one(
    key_heads: int, dtype: torch.dtype, split_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 0 and 1 share a prefix; row 2 is in one piece; row 3 has three runs, one of a single token."""
    monkeypatch.setattr(attention, "SPLIT_FROM", split_from)
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(1, 4, 4, 8, generator=generator).to(dtype)
    key, value = torch.randn(2, 1, key_heads, 400, 8, generator=generator).to(dtype)
    key[:, :, :48] *= 30  # the sums of exponentials are far apart
    rows = [((0, 48), (64, 5)), ((0, 48), (128, 30)), ((200, 33),), ((300, 1), (40, 8), (320, 16))]
    views = Views(tuple(View(slice(i, i + 1), runs) for i, runs in enumerate(rows)))
    output, _ = row_attention(MODULE, query, key, value, views)
    for i, runs in enumerate(rows):
        places = [place for start, length in runs for place in range(start, start + length)]
        groups = 4 // key_heads
        keys, values = (states[:, :, places].repeat_interleave(groups, 1).float() for states in (key, value))
        expected = torch.nn.functional.scaled_dot_product_attention(query[:, :, i : i + 1].float(), keys, values)
        torch.testing.assert_close(
            output[0, i].float(),
            expected[0, :, 0],
            rtol=2e-2 if dtype == torch.bfloat16 else 1e-4,
            atol=2e-2 if dtype == torch.bfloat16 else 1e-5,
        )


def test_attention_sinks_are_refused() -> None:
    with pytest.raises(NotSupported, match="attention sinks"):
        row_attention(MODULE, *torch.zeros(3, 1, 1, 1, 2), None, s_aux=torch.zeros(1))


def test_layers_of_an_unknown_kind_are_named() -> None:
    network = make_network("llama")
    network.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(NotSupported, match="can't be served in batches: it has layers of type linear_attention"):
        attend_by_rows(network)
