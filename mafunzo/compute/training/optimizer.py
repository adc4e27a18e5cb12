"""The optimizer (AdamW, Adafactor, SGD or Muon), which weights decay, and gradient clipping."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import Adafactor, PreTrainedModel

from mafunzo.compute.training.arguments import TrainingArguments

MUON_MOMENTUM = 0.95


def make_optimizer(network: nn.Module, arguments: TrainingArguments) -> Optimizer:
    """Return the optimizer of the trainable weights. Weight decay leaves out norms and biases, whatever has one axis."""
    rate = arguments.learning_rate
    groups = rate_groups(network, decay_groups(network, arguments.weight_decay), rate, arguments.loraplus_lr_ratio)
    if arguments.optim == "adafactor":
        return Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)  # type: ignore[no-any-return]
    if arguments.optim == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=arguments.momentum or 0.0)
    if arguments.optim == "muon":
        return MuonAndAdamW(network, groups, arguments)
    return _adamw(groups, arguments)


def _adamw(groups: list[dict[str, Any]], arguments: TrainingArguments) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        groups,
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        eps=arguments.adam_epsilon,
        fused=True,
    )


class MuonAndAdamW(Optimizer):
    """Muon for the matrices within a network, AdamW for its other trained weights: one optimizer, with one state.

    Muon's step is scaled to the mean size of AdamW's (0.2 times the root of the longer side: "Muon is Scalable for LLM
    Training", arXiv 2502.16982), so that one learning rate and weight decay suit both.
    """

    def __init__(self, network: nn.Module, groups: list[dict[str, Any]], arguments: TrainingArguments) -> None:
        matrices, others = _split(groups, {id(matrix) for matrix in hidden_matrices(network)})
        momentum = MUON_MOMENTUM if arguments.momentum is None else arguments.momentum
        muon, adamw = torch.optim.Muon, torch.optim.AdamW
        self._parts: dict[type[Optimizer], Optimizer] = {}
        if matrices:
            rate = arguments.learning_rate
            self._parts[muon] = muon(matrices, lr=rate, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        if others:
            self._parts[adamw] = _adamw(others, arguments)
        super().__init__([group for part in self._parts.values() for group in part.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take both parts' step, on the groups and the state that this optimizer has now: a checkpoint puts in others."""
        assert closure is None, "gradients are there before a step"
        for kind, part in self._parts.items():
            is_muon = kind is torch.optim.Muon
            part.param_groups = [group for group in self.param_groups if ("ns_steps" in group) == is_muon]
            part.state = self.state
            part.step()


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """Return the trained weights that Muon is for: with two axes, and neither of an embedding nor of the head."""
    tables = [module for module in network.modules() if isinstance(module, nn.Embedding)]
    heads = [network.get_output_embeddings()] if isinstance(network, PreTrainedModel) else []
    left_out = {id(module.weight) for module in [*tables, *heads] if module is not None}
    trained = (parameter for parameter in network.parameters() if parameter.requires_grad)
    return [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in left_out]


def _split(groups: list[dict[str, Any]], chosen: set[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups with the chosen weights alone, and those with the others; none is empty."""

    def part(is_chosen: bool) -> list[dict[str, Any]]:
        parts = [group | {"params": [p for p in group["params"] if (id(p) in chosen) == is_chosen]} for group in groups]
        return [group for group in parts if group["params"]]

    return part(True), part(False)


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
