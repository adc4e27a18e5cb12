"""The optimizer and the learning rate's schedule."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Adafactor, get_scheduler


def make_optimizer(network: nn.Module, values: Mapping[str, Any]) -> Optimizer:
    """Return the optimizer of the trainable weights. Weight decay leaves out norms and biases, whatever has one axis."""
    rate = values["learning_rate"]
    groups = decay_groups(network, values["weight_decay"])
    if values["optim"] == "adafactor":
        return Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)  # type: ignore[no-any-return]
    return torch.optim.AdamW(
        groups,
        lr=rate,
        betas=(values["adam_beta1"], values["adam_beta2"]),
        eps=values["adam_epsilon"],
        fused=True,
    )


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: with and without weight decay. Empty groups are left out."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_schedule(optimizer: Optimizer, values: Mapping[str, Any], total_steps: int) -> LRScheduler:
    """Return the schedule of the learning rate over `total_steps` optimizer steps."""
    schedule: LRScheduler = get_scheduler(
        values["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=warmup(values, total_steps),
        num_training_steps=total_steps,
    )
    return schedule


def warmup(values: Mapping[str, Any], total_steps: int) -> int:
    """Return the steps of the warm-up: as given, or a share of all, rounded up."""
    if values["warmup_steps"] > 0:
        return int(values["warmup_steps"])
    return math.ceil(round(float(values["warmup_ratio"]) * total_steps, 6))


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to `max_norm` if they are greater (0: never), and return their norm before."""
    with_grad = [parameter for parameter in parameters if parameter.grad is not None]
    return float(nn.utils.clip_grad_norm_(with_grad, max_norm if max_norm > 0 else float("inf")))
