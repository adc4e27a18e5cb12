"""Distributed training: who takes backward passes and optimizer steps, the optimizer as it is or DeepSpeed's ZeRO stage 2.

Gradient accumulation is theirs too: gradients of several forward passes add up until the step is taken, and then over the
processes that train together (ranks.py).
"""

import os
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from mafunzo.compute.device.precision import Precision
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.optimizer import clip
from mafunzo.compute.training.ranks import Ranks
from mafunzo.entities.deepspeed import OFFLOADS, DeepSpeedConfig
from mafunzo.errors import NotSupported


class Stepper(Protocol):
    """Accumulates gradients over the forward passes of a step, and takes the step."""

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add the gradients of one forward pass; `is_last`: of the step's last."""

    def step(self) -> float:
        """Clip the gradients, take the step, clear them, and return their norm before."""

    def clear(self) -> None:
        """Clear the accumulated gradients."""

    def weights_were_loaded(self) -> None:
        """Take over weights that were put into the network."""

    def scaler_state(self) -> dict[str, Any]:
        """Return the loss scaler's numbers, which a checkpoint keeps; empty where losses aren't scaled."""

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        """Go on with such numbers."""


def make_stepper(
    network: PreTrainedModel,
    optimizer: Optimizer,
    arguments: TrainingArguments,
    precision: Precision,
    device: torch.device,
    ranks: Ranks,
    config: DeepSpeedConfig,
) -> Stepper:
    """Return the stepper of `apply_deepspeed`; raises `NotSupported` for DeepSpeed in float16 or on several processes."""
    if not arguments.apply_deepspeed:
        return Replicated(network, optimizer, arguments.max_grad_norm, device, precision.needs_scaler, ranks)
    if ranks.size > 1:
        raise NotSupported(
            f"DeepSpeed on {ranks.size} processes isn't supported yet. Set apply_deepspeed false: the processes share the "
            "rows of a step then, and each holds the whole network."
        )
    if precision.needs_scaler:
        raise NotSupported(
            "This GPU computes in float16 only, which isn't supported with DeepSpeed. Use precision 32, or "
            "apply_deepspeed false."
        )
    return DeepSpeedZero(network, optimizer, arguments, device, config)


class Replicated:
    """The optimizer as it is, in each process for all weights, after the gradients of all processes are added up."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        max_norm: float,
        device: torch.device,
        needs_scaler: bool,
        ranks: Ranks,
    ) -> None:
        self._network, self._optimizer, self._max_norm, self._ranks = network, optimizer, max_norm, ranks
        self._scaler = torch.amp.GradScaler(device.type, enabled=needs_scaler)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        self._ranks.add_up_gradients(self._network.parameters())
        if self._scaler.is_enabled():
            self._scaler.unscale_(self._optimizer)
        norm = clip(self._network.parameters(), self._max_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.clear()
        return norm

    def clear(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def weights_were_loaded(self) -> None:
        pass

    def scaler_state(self) -> dict[str, Any]:
        return dict(self._scaler.state_dict())

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        if self._scaler.is_enabled() and state:
            self._scaler.load_state_dict(dict(state))


class DeepSpeedZero:
    """DeepSpeed's ZeRO stage 2, which shards gradients and the optimizer's state over the processes.

    Trained weights stay in float32, so that DeepSpeed's own casts are off; frozen ones are in whatever they came.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        optimizer: Optimizer,
        arguments: TrainingArguments,
        device: torch.device,
        config: DeepSpeedConfig,
    ) -> None:
        os.environ.setdefault("DS_ACCELERATOR", device.type)
        os.environ.setdefault("LOCAL_RANK", "0")
        import deepspeed

        # Left alone, it tries to compile each of its kernels, half a minute of work that one process has no use for.
        deepspeed.ops.__compatible_ops__ = {}
        backend = "nccl" if device.type == "cuda" else "gloo"
        if not torch.distributed.is_initialized():
            store = torch.distributed.HashStore()  # type: ignore[attr-defined]
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        settings = config.filled(int(network.config.get_text_config().hidden_size))
        if device.type == "cpu":  # whose memory everything is in
            for part in OFFLOADS:
                settings["zero_optimization"].pop(part, None)
        settings |= {
            "train_micro_batch_size_per_gpu": arguments.per_device_train_batch_size,
            "gradient_accumulation_steps": 1,  # set pass by pass, since a step's number of passes may change
            "gradient_clipping": arguments.max_grad_norm,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # which would have to be compiled
        }
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=network, optimizer=optimizer, config=settings, dist_init_required=False
        )

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss)

    def step(self) -> float:
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def clear(self) -> None:
        """Forget the gradients of weights. What was reduced already stays: a step that broke off can't be taken again, which
        is why auto_find_batch_size is refused with DeepSpeed."""
        self._optimizer.zero_grad(set_to_none=True)

    def weights_were_loaded(self) -> None:
        self._optimizer.refresh_fp32_params()

    def scaler_state(self) -> dict[str, Any]:
        return {}

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        pass
