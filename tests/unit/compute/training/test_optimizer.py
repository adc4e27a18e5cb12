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


@pytest.mark.parametrize(("limit", "after"), [(1.0, 1.0), (10.0, 5.0), (0.0, 5.0)])
def test_gradients_are_scaled_down_only_beyond_the_limit(limit, after):
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip([parameter], limit) == pytest.approx(5.0)
    assert float(parameter.grad.norm()) == pytest.approx(after, rel=1e-4)
