import pytest
import torch
from torch import nn

from mafunzo.training.optimizer import clip, decay_groups, make_optimizer, make_schedule, warmup
from tests.support.tiny_training import tiny

VALUES = {
    "learning_rate": 1.0,
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "optim": "adamw_torch",
    "warmup_steps": 0,
    "warmup_ratio": 0.0,
    "lr_scheduler_type": "linear",
}


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
    optimizer = make_optimizer(nn.Linear(2, 2), VALUES)
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["lr"], group["weight_decay"]) == ((0.8, 0.9), 1e-6, 1.0, 0.1)


def test_adafactor_keeps_the_learning_rate_that_was_asked_for():
    optimizer = make_optimizer(nn.Linear(2, 2), VALUES | {"optim": "adafactor"})
    assert type(optimizer).__name__ == "Adafactor"
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert optimizer.param_groups[0]["relative_step"] is False


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        pytest.param("linear", [0, 0.5, 1, 0.5, 0], id="linear"),
        pytest.param("cosine", [0, 0.5, 1, 0.5, 0], id="cosine"),
        pytest.param("constant", [1, 1, 1, 1, 1], id="constant"),
        pytest.param("constant_with_warmup", [0, 0.5, 1, 1, 1], id="constant with warm-up"),
        pytest.param("polynomial", [0, 0.5, 1, 0.5, 0], id="polynomial"),
        pytest.param("cosine_with_restarts", [0, 0.5, 1, 0.5, 0], id="restarts"),
    ],
)
def test_each_schedule_has_its_shape(kind, rates):
    optimizer = make_optimizer(nn.Linear(2, 2), VALUES)
    schedule = make_schedule(optimizer, VALUES | {"lr_scheduler_type": kind, "warmup_steps": 2}, 4)
    seen = []
    for _ in range(5):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(rates, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "steps"),
    [({}, 0), ({"warmup_steps": 7}, 7), ({"warmup_ratio": 0.1}, 3), ({"warmup_ratio": 0.11}, 4)],
)
def test_the_warm_up_is_steps_or_a_share(given, steps):
    assert warmup(VALUES | given, 30) == steps


@pytest.mark.parametrize(("limit", "after"), [(1.0, 1.0), (10.0, 5.0), (0.0, 5.0)])
def test_gradients_are_scaled_down_only_beyond_the_limit(limit, after):
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip([parameter], limit) == pytest.approx(5.0)
    assert float(parameter.grad.norm()) == pytest.approx(after, rel=1e-4)
