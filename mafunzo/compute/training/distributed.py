"""Distributed training: who takes backward passes and optimizer steps, the optimizer as it is, DeepSpeed's
ZeRO (zero.py, zero3.py) or FSDP2 (fsdp.py).

Gradient accumulation is theirs too: gradients of several forward passes add up until the step is taken, and over the
processes that train together (ranks.py).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from mafunzo.compute.device.precision import Precision
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.fsdp import FullySharded, Root
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.optimizer import clip
from mafunzo.compute.training.ranks import Ranks
from mafunzo.compute.training.snapshot import Gathered, OptimizerState, weights_of
from mafunzo.compute.training.zero import DeepSpeedZero, Result
from mafunzo.compute.training.zero3 import DeepSpeedZero3
from mafunzo.entities.deepspeed import DeepSpeedConfig
from mafunzo.errors import NotSupported


class Stepper(Protocol):
    """Accumulates gradients over the forward passes of a step, and takes the step.

    strategy: what it is called. in_lockstep: whether all ranks must make as many passes (lockstep.py). shards_weights:
    whether each has a part of the weights only, but for those that a pass is using.
    """

    strategy: str
    in_lockstep: bool
    shards_weights: bool

    def within(self, work: Callable[[], Result]) -> Result:
        """Return `work()`, which uses the network's weights but differentiates nothing; all ranks do this together."""

    def forward(self, work: Callable[[], BatchLoss]) -> BatchLoss:
        """Return `work()`, a forward pass; the weights that it uses are there meanwhile."""

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add the gradients of one forward pass; `is_last`: of the step's last."""

    def step(self) -> float:
        """Clip the gradients, take the step, clear them, and return their norm before."""

    def clear(self) -> None:
        """Clear the accumulated gradients."""

    def gathered(self) -> Gathered | None:
        """Return weights and the optimizer's state, put together on the first rank; None where they are whole on each.

        All ranks do this together.
        """

    def load(self, weights: Iterable[tuple[str, Tensor]], state: OptimizerState) -> None:
        """Go on with such weights and state."""

    def make_whole(self) -> None:
        """Put the weights together again on the first rank, once training is over; all ranks do this together."""

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
    root: Root | None = None,
) -> Stepper:
    """Return the stepper of `apply_deepspeed` and `data_parallel_strategy`; raises `NotSupported` for float16 where they shard.

    root: of a network that is sharded.
    """
    if not arguments.apply_deepspeed and root is None:
        return Replicated(network, optimizer, arguments, device, precision.needs_scaler, ranks)
    if precision.needs_scaler:
        raise NotSupported(
            "This GPU computes in float16 only, which isn't supported with DeepSpeed and fsdp. Use precision 32, or "
            "apply_deepspeed false and data_parallel_strategy ddp."
        )
    if root is not None:
        return FullySharded(root, optimizer, arguments, ranks)
    stepper = DeepSpeedZero3 if config.stage == 3 else DeepSpeedZero
    return stepper(network, optimizer, arguments, device, ranks, config)


class Replicated:
    """The optimizer as it is, in each process for all weights, after the gradients of all processes are added up."""

    strategy = "ddp"
    in_lockstep = False
    shards_weights = False

    def __init__(
        self,
        network: PreTrainedModel,
        optimizer: Optimizer,
        arguments: TrainingArguments,
        device: torch.device,
        needs_scaler: bool,
        ranks: Ranks,
    ) -> None:
        self._network, self._optimizer, self._ranks = network, optimizer, ranks
        self._max_norm, self._is_adapter = arguments.max_grad_norm, arguments.apply_lora
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

    def within(self, work: Callable[[], Result]) -> Result:
        return work()

    def forward(self, work: Callable[[], BatchLoss]) -> BatchLoss:
        return work()

    def gathered(self) -> None:
        return None

    def load(self, weights: Iterable[tuple[str, Tensor]], state: OptimizerState) -> None:
        own = weights_of(self._network, self._is_adapter)
        for name, tensor in weights:
            own[name].copy_(tensor)
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})

    def make_whole(self) -> None:
        pass

    def scaler_state(self) -> dict[str, Any]:
        return dict(self._scaler.state_dict())

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        if self._scaler.is_enabled() and state:
            self._scaler.load_state_dict(dict(state))
