"""The optimizer: AdamW or Adafactor, which weights decay, and gradient clipping."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import Adafactor

from mafunzo.compute.training.arguments import TrainingArguments


def make_optimizer(network: nn.Module, arguments: TrainingArguments) -> Optimizer:
    """Return the optimizer of the trainable weights. Weight decay leaves out norms and biases, whatever has one axis."""
    rate = arguments.learning_rate
    groups = rate_groups(network, decay_groups(network, arguments.weight_decay), rate, arguments.loraplus_lr_ratio)
    if arguments.optim == "adafactor":
        return Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)  # type: ignore[no-any-return]
    return torch.optim.AdamW(
        groups,
        lr=rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        eps=arguments.adam_epsilon,
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


def rate_groups(
    network: nn.Module, groups: list[dict[str, Any]], rate: float, ratio: float | None
) -> list[dict[str, Any]]:
    """Return the groups, with second matrices and magnitudes of adapters in others, which are trained `ratio` times as fast.

    LoRA+ (Hayou et al. 2024, arXiv 2402.12354), in the groups that peft's `create_loraplus_optimizer` makes. None: as they are.
    """
    if ratio is None:
        return groups
    second = {id(weight) for name, weight in network.named_parameters() if name.endswith("lora_B") or weight.ndim == 1}
    parts = [
        group | {"params": [one for one in group["params"] if (id(one) in second) is is_second], "lr": factor * rate}
        for group in groups
        for is_second, factor in ((False, 1.0), (True, ratio))
    ]
    return [part for part in parts if part["params"]]


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients down to `max_norm` if they are greater (0: never), and return their norm before."""
    with_grad = [parameter for parameter in parameters if parameter.grad is not None]
    return float(nn.utils.clip_grad_norm_(with_grad, max_norm if max_norm > 0 else float("inf")))
