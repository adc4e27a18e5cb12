from itertools import pairwise

import pytest
import torch
from torch import nn

from mafunzo.compute.training import attention
from mafunzo.compute.training.attention import packed_attention
from mafunzo.errors import NotSupported

HEADS, KEY_HEADS, WIDTH = 6, 2, 8


def slow(query, key, value, bounds, scale, window=None, softcap=None):
    """Attention by its definition, one sequence after the other, in float64."""
    parts = []
    for low, high in pairwise(bounds):
        q, k, v = (t[:, :, low:high].double() for t in (query, key, value))
        k, v = k.repeat_interleave(HEADS // KEY_HEADS, 1), v.repeat_interleave(HEADS // KEY_HEADS, 1)
        scores = q @ k.transpose(2, 3) * scale
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        position = torch.arange(high - low)
        back = position[:, None] - position
        hidden = (back < 0) | (back >= (window or high))
        parts.append(torch.softmax(scores.masked_fill(hidden, float("-inf")), -1) @ v)
    return torch.cat(parts, 2).transpose(1, 2)


def tensors(tokens, dtype=torch.float32):
    torch.manual_seed(0)
    shapes = ((1, HEADS, tokens, WIDTH), (1, KEY_HEADS, tokens, WIDTH), (1, KEY_HEADS, tokens, WIDTH))
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


CASES = [
    pytest.param([0, 9], {}, id="one sequence"),
    pytest.param([0, 5, 6, 17], {}, id="three, one of a single token"),
    pytest.param([0, 100, 128, 300, 301, 560], {}, id="longer than a block"),
    pytest.param([0, 40, 300], {"window": 7}, id="a window"),
    pytest.param([0, 40, 300], {"window": 150}, id="a window wider than a block"),
    pytest.param([0, 40, 300], {"softcap": 2.0}, id="a soft cap"),
    pytest.param([0, 40, 200], {"softcap": 2.0, "window": 9}, id="both"),
]


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(("bounds", "more"), CASES)
def test_results_and_gradients_are_those_of_the_definition(bounds, more, keeps, monkeypatch):
    monkeypatch.setattr(attention, "SAVED_BYTES", 2**30 if keeps else 0)
    query, key, value = tensors(bounds[-1])
    weight = torch.randn(1, bounds[-1], HEADS, WIDTH)
    out, _ = packed_attention(
        nn.Module(),
        query,
        key,
        value,
        None,
        scaling=0.3,
        sliding_window=more.get("window"),
        softcap=more.get("softcap"),
        cu_seq_lens_q=torch.tensor(bounds, dtype=torch.int32),
    )
    (out * weight).sum().backward()
    mine = [out, query.grad, key.grad, value.grad]
    query.grad = key.grad = value.grad = None
    expected = slow(query, key, value, bounds, 0.3, **more)
    (expected * weight).sum().backward()
    for ours, theirs in zip(mine, [expected, query.grad, key.grad, value.grad], strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5)


def test_in_bfloat16_it_is_as_exact_as_the_architectures_own_attention():
    """transformers' eager attention: scores rounded to bfloat16, their softmax in float32."""
    query, key, value = tensors(300, torch.bfloat16)
    exact = slow(query, key, value, [0, 300], WIDTH**-0.5)
    ours, _ = packed_attention(nn.Module(), query, key, value, None)
    keys, values = (t.repeat_interleave(HEADS // KEY_HEADS, 1) for t in (key, value))
    later = torch.ones(300, 300, dtype=torch.bool).triu(1)
    scores = (query @ keys.transpose(2, 3) * WIDTH**-0.5).masked_fill(later, float("-inf"))
    eager = (torch.softmax(scores, -1, dtype=torch.float32).to(torch.bfloat16) @ values).transpose(1, 2)
    our_error, eager_error = ((x.double() - exact).square().mean().sqrt() for x in (ours, eager))
    assert our_error < 1.05 * eager_error


def test_without_bounds_there_is_one_sequence():
    query, key, value = tensors(20)
    out, weights = packed_attention(nn.Module(), query, key, value, None)
    torch.testing.assert_close(out.double(), slow(query, key, value, [0, 20], WIDTH**-0.5), rtol=1e-4, atol=1e-5)
    assert weights is None


@pytest.mark.parametrize("window", [None, 6])
def test_the_way_of_other_devices_gives_the_same(window):
    query, key, value = tensors(40)
    bounds = [0, 5, 40]
    theirs = attention._by_sdpa(query, key, value, bounds, 0.4, window or 0, None)
    torch.testing.assert_close(theirs.double(), slow(query, key, value, bounds, 0.4, window), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        pytest.param({"s_aux": torch.zeros(HEADS)}, "s_aux", id="sinks"),
        pytest.param({"dropout": 0.1}, "dropout", id="dropout"),
        pytest.param({"position_bias": torch.zeros(1)}, "position_bias", id="a bias"),
    ],
)
def test_what_it_does_not_compute_is_refused(more, word):
    with pytest.raises(NotSupported, match=word):
        packed_attention(nn.Module(), *tensors(4), None, **more)


def test_a_mask_and_both_directions_are_refused():
    layer = nn.Module()
    layer.is_causal = False
    with pytest.raises(NotSupported, match=r"attention_mask, attention in both directions\."):
        packed_attention(layer, *tensors(4), torch.zeros(1))
