"""Tests of `mafunzo.compute.training.recomputation`: less is kept, and losses and gradients stay."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter
from mafunzo.compute.model.lora_layer import LoraLinear
from mafunzo.compute.training import attention
from mafunzo.compute.training.batch import pack
from mafunzo.compute.training.network import prepare
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.recomputation import save_less
from tests.support.tiny_network import ARCHITECTURES, make_network
from tests.support.tiny_training import CONFIGS, random_rows, tiny

FORMS = ["full", "LoRA", "LoRA with dropout"]


@pytest.fixture(autouse=True)
def registered():
    attention.register()


def trainable(family, form, dtype=torch.float32):
    """A network in training, packed, with its own forward passes."""
    model = tiny(family, attention=attention.PACKED).to(dtype)
    runner = prepare(model)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.data += torch.linspace(-0.5, 0.5, len(weight), dtype=dtype)
    model.requires_grad_(True)
    if form != "full":
        torch.manual_seed(5)
        add_adapter(model, AdapterConfig(r=4, alpha=8, dropout=0.3 if "dropout" in form else 0.0))
        for _, layer in adapters(model):
            layer.lora_B.data.normal_(std=0.1)
    return runner


def loss_and_gradients(runner, autocast=None):
    runner.network.train()
    rows = [((np.array(ids, np.int32), np.array(labels, np.int32)),) for ids, labels in random_rows(5)]
    torch.manual_seed(9)
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        loss = Supervised().loss(runner, pack(rows)).loss_sum
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in runner.network.named_parameters() if p.grad is not None}
    runner.network.zero_grad(set_to_none=True)
    runner.network.eval()
    return loss.detach(), gradients


def distance(ours, own):
    return float((ours.float() - own.float()).norm() / own.float().norm().clamp_min(1e-6))


@pytest.mark.parametrize("recomputes_layers", [False, True], ids=["", "gradient checkpointing"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", list(CONFIGS))
def test_losses_and_gradients_are_the_architecture_s_own(family, form, recomputes_layers):
    runner = trainable(family, form)
    loss, gradients = loss_and_gradients(runner)
    count = save_less(runner.network)
    kinds = sum(type(module).__name__.endswith(("MLP", "RMSNorm")) for module in runner.network.modules())
    assert count == kinds > 0
    if recomputes_layers:
        runner.network.activation_checkpointing_enable({"use_reentrant": False})
    our_loss, our_gradients = loss_and_gradients(runner)
    torch.testing.assert_close(our_loss, loss, rtol=1e-6, atol=0)
    assert set(our_gradients) == set(gradients)
    for name, own in gradients.items():
        torch.testing.assert_close(
            our_gradients[name], own, rtol=1e-4, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(
    ("form", "dtype", "autocast"),
    [
        pytest.param("LoRA", torch.bfloat16, None, id="frozen weights in bfloat16"),
        pytest.param("LoRA with dropout", torch.bfloat16, None, id="and dropout"),
        pytest.param("full", torch.float32, torch.bfloat16, id="all weights trained, cast in each product"),
    ],
)
@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2", "gemma3", "qwen3"])
def test_in_bfloat16_too(family, form, dtype, autocast):
    """As near to the architecture's own as two orders of one sum are."""
    runner = trainable(family, form, dtype)
    loss, gradients = loss_and_gradients(runner, autocast)
    assert save_less(runner.network) > 0
    our_loss, our_gradients = loss_and_gradients(runner, autocast)
    torch.testing.assert_close(our_loss, loss, rtol=1e-3, atol=0)
    assert {name: g.dtype for name, g in our_gradients.items()} == {name: g.dtype for name, g in gradients.items()}
    assert max(distance(our_gradients[name], own) for name, own in gradients.items()) < 0.05


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gpt2"])
def test_every_family_keeps_less(architecture):
    model = make_network(architecture)
    assert save_less(model) > 0


def kept_elements(model, x):
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = model(x)
    assert y.requires_grad
    return sum(size for address, size in saved.items() if address not in weights)


@pytest.mark.parametrize("form", ["full", "LoRA"])
def test_a_gated_block_keeps_two_tensors_of_its_width_instead_of_four(form):
    rows, width, inner = 100, 32, 48
    block = trainable("llama", form).network.model.layers[0].mlp
    x = torch.randn(1, rows, width, requires_grad=True)
    own = kept_elements(block, x)
    save_less(block)
    assert own - kept_elements(block, x) == 2 * rows * inner


def test_a_norm_keeps_its_input_and_a_number_a_row():
    norm = trainable("llama", "LoRA").network.model.layers[0].input_layernorm
    x = torch.randn(1, 100, 32, requires_grad=True)
    save_less(norm)
    assert kept_elements(norm, x) == 100 * 32 + 100


class Clipped(nn.Module):
    """It has the names of a gated block, and computes something else."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)).clamp(max=0.1) * self.up_proj(x))


class Doubled(nn.Module):
    """It has the names of a norm, and computes something else."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x):
        return x * self.weight * 2


class Sparse(nn.Module):
    """A gated block of which each has a setting of its own."""

    def __init__(self, share):
        super().__init__()
        self.share = share
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        gate = self.gate_proj(x)
        return self.down_proj(nn.functional.silu(gate - self.share) * self.up_proj(x))


@pytest.mark.parametrize("module", [Clipped(), Doubled(), Sparse(0.5)], ids=lambda module: type(module).__name__)
def test_what_proves_different_keeps_its_own_forward_pass(module, caplog):
    caplog.set_level("INFO")
    assert save_less(nn.Sequential(module)) == 0
    assert "forward" not in vars(module)
    assert f"Keeps its own forward pass: {type(module).__name__}" in caplog.text


def test_blocks_of_different_settings_are_proven_each():
    blocks = nn.Sequential(Sparse(0.0), Sparse(0.5))
    assert save_less(blocks) == 1
    assert "forward" in vars(blocks[0]) and "forward" not in vars(blocks[1])


def test_a_layer_whose_weights_a_hook_fetches_is_called_as_a_module():
    block = trainable("llama", "LoRA").network.model.layers[0].mlp
    save_less(block)
    calls = []
    block.down_proj.base.register_forward_pre_hook(lambda *_: calls.append(1))
    block.down_proj.register_forward_pre_hook(lambda *_: calls.append(2))
    block(torch.randn(1, 4, 32))
    assert 2 in calls


def test_a_copy_of_a_network_runs_its_own_weights():
    block = trainable("llama", "full").network.model.layers[0].mlp
    save_less(block)
    twin = copy.deepcopy(block)
    twin.down_proj.weight.data.zero_()
    x = torch.randn(1, 4, 32)
    assert not twin(x).any() and block(x).any()


def test_proving_draws_no_random_number_and_leaves_no_gradient():
    network = trainable("llama", "LoRA").network
    before = torch.get_rng_state()
    save_less(network)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None for weight in network.parameters())
    assert any(isinstance(module, LoraLinear) for module in network.modules())
