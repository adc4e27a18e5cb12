"""Packed layers compute what the layers that they replace compute."""

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

from mafunzo.compute.inference import packing
from mafunzo.compute.inference.packing import PackedLinear, PackedLora, is_packable, pack_linears
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter
from mafunzo.compute.model.lora_layer import LoraLinear
from mafunzo.entities.parameters.target_modules import Modules, TargetModules
from tests.support.tiny_network import make_network

DTYPES = [dtype for dtype in (torch.bfloat16, torch.float32) if is_packable(dtype)]
"""What this CPU multiplies in."""
MAPS = Path("/proc/self/maps")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 96), (16, 1, 96), (1, 70, 96), (5, 96)])
def test_a_packed_layer_gives_the_same(dtype: torch.dtype, has_bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 160, bias=has_bias).to(dtype)
    x = torch.randn(shape).to(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_adapter_gives_the_same(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 96).to(dtype)
    for has_magnitude in (False, True):
        layer = LoraLinear(nn.Linear(96, 160).to(dtype), 8, 2.0, has_magnitude=has_magnitude).eval()
        nn.init.normal_(layer.lora_B)
        with torch.inference_mode():
            packed = PackedLora(layer)
            torch.testing.assert_close(packed(x), layer(x))
            assert torch.equal(packed.unpacked(), layer.weight)


@pytest.mark.parametrize("has_adapter", [False, True], ids=["plain", "with an adapter"])
def test_a_packed_network_gives_the_same(has_adapter: bool) -> None:
    network = make_network("llama")
    if has_adapter:
        add_adapter(network, AdapterConfig(r=4, targets=TargetModules(Modules(("q_proj", "down_proj")))))
        for _, layer in adapters(network):
            nn.init.normal_(layer.lora_B, std=0.1)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        expected = network(ids).logits
        pack_linears(network)
        assert torch.allclose(network(ids).logits, expected, atol=1e-4)
    assert sum(isinstance(module, PackedLinear) for module in network.modules()) == 3 * 7 + 1
    assert not any(isinstance(module, nn.Linear | LoraLinear) for module in network.modules())


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_weights_that_are_packed_are_held_once_and_no_file_of_them_is_left_mapped(
    architecture: str, tmp_path: Path
) -> None:
    """Qwen2's layers have biases; GPT-2's are none that are packed, but for its head."""
    make_network(architecture).save_pretrained(tmp_path)
    network = load_network(tmp_path)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        expected = network(ids).logits
        assert str(tmp_path) in MAPS.read_text()
        pack_linears(network)
        gc.collect()
        assert str(tmp_path) not in MAPS.read_text()
        assert torch.allclose(network(ids).logits, expected, atol=1e-4)


def test_layers_in_a_dtype_that_the_cpu_does_not_multiply_in_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network("llama").to(torch.bfloat16)
    add_adapter(network, AdapterConfig(r=4, targets=TargetModules(Modules(("q_proj",)))))
    monkeypatch.setattr(packing, "is_packable", lambda dtype: dtype == torch.float32)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        expected = network(ids).logits
        pack_linears(network)
        assert not any(isinstance(module, PackedLinear) for module in network.modules())
        assert torch.equal(network(ids).logits, expected)
