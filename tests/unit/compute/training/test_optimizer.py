from dataclasses import replace

import pytest
import torch
from torch import nn

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.optimizer import clip, decay_groups, make_optimizer
from tests.support.tiny_training import tiny

ARGUMENTS = TrainingArguments.from_values(
    {"learning_rate": 1.0, "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6}
)


def test_norms_and_biases_do_not_decay():
    network = tiny("qwen2")
    names = {id(p): name for name, p in network.named_parameters()}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in decay_groups(network, 0.1))
    assert all("norm" in name or name.endswith("bias") for name in free) and free
    assert not any("norm" in name or name.endswith("bias") for name in decayed)
    assert len(decayed | free) == len(names)


def test_frozen_weights_are_in_no_group():
    network = tiny()
    network.requires_grad_(False)
    network.lm_head.weight.requires_grad_(True)
    assert [len(group["params"]) for group in decay_groups(network, 0.1)] == [1]


def test_adamw_is_built_from_the_parameters():
    optimizer = make_optimizer(nn.Linear(2, 2), ARGUMENTS)
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["lr"], group["weight_decay"]) == ((0.8, 0.9), 1e-6, 1.0, 0.1)


def test_adafactor_keeps_the_learning_rate_that_was_asked_for():
    optimizer = make_optimizer(nn.Linear(2, 2), replace(ARGUMENTS, optim="adafactor"))
    assert type(optimizer).__name__ == "Adafactor"
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert optimizer.param_groups[0]["relative_step"] is False


def test_sgd_has_the_momentum_that_was_asked_for_and_none_by_itself():
    optimizer = make_optimizer(nn.Linear(2, 2), replace(ARGUMENTS, optim="sgd", momentum=0.9))
    assert type(optimizer) is torch.optim.SGD
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["lr"], group["weight_decay"]) == (0.9, 1.0, 0.1)
    assert make_optimizer(nn.Linear(2, 2), replace(ARGUMENTS, optim="sgd")).param_groups[0]["momentum"] == 0.0


def test_adamw_is_one_under_both_of_its_names():
    optimizer = make_optimizer(nn.Linear(2, 2), replace(ARGUMENTS, optim="adamw_torch_fused"))
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.param_groups[0]["fused"] is True


@pytest.mark.parametrize("family", ["llama", "llama tied", "qwen2"])
def test_muon_steps_matrices_as_torch_s_and_the_rest_as_adamw(family):
    """Embeddings, head, norms and biases are AdamW's, also after a checkpoint was put in; the rate follows a schedule."""
    network, other = tiny(family), tiny(family)
    optimizer = make_optimizer(network, replace(ARGUMENTS, optim="muon", momentum=0.9))
    named = dict(other.named_parameters())
    inner = [name for name, p in named.items() if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
    muon = torch.optim.Muon(
        [named[name] for name in inner], lr=1.0, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    rest = [{"params": [p], "weight_decay": 0.1 * (p.ndim > 1)} for name, p in named.items() if name not in inner]
    adamw = torch.optim.AdamW(rest, lr=1.0, betas=(0.8, 0.9), eps=1e-6)
    for step, rate in enumerate([0.1, 0.2, 0.05]):
        optimizers = [optimizer, muon, adamw]
        if step == 2:
            optimizer = make_optimizer(network, replace(ARGUMENTS, optim="muon", momentum=0.9))
            optimizer.load_state_dict(optimizer.state_dict() | {"state": optimizers[0].state_dict()["state"]})
            optimizers[0] = optimizer
        for group in [group for one in optimizers for group in one.param_groups]:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(step)
        for name, parameter in network.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            named[name].grad = parameter.grad.clone()
        for one in optimizers:
            one.step()
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter, named[name], atol=1e-6), name


def test_muon_trains_adapters_alone_where_nothing_else_is_trained():
    network = tiny()
    network.requires_grad_(False)
    network.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    optimizer = make_optimizer(network, replace(ARGUMENTS, optim="muon"))
    assert [group["momentum"] for group in optimizer.param_groups] == [0.95]
    optimizer.zero_grad()
    network(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    before = network.model.layers[0].mlp.up_proj.weight.clone()
    optimizer.step()
    assert not torch.equal(before, network.model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize(("limit", "after"), [(1.0, 1.0), (10.0, 5.0), (0.0, 5.0)])
def test_gradients_are_scaled_down_only_beyond_the_limit(limit, after):
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip([parameter], limit) == pytest.approx(5.0)
    assert float(parameter.grad.norm()) == pytest.approx(after, rel=1e-4)
