"""A snapshot: all that a checkpoint holds, as it is at one moment, so that it can be written while training goes on.

    the loop    step | step | copy | step | step | step | step ...
    a thread                       | write, hash, fsync, rename |

The loop waits for the copy only. It is made of tensors that share nothing with the run's, unless it is taken for a write that
the loop waits for, which needs no memory of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from mafunzo.compute.model.lora import AdapterConfig, adapter_tensors
from mafunzo.compute.training.ranks import Ranks

OptimizerState = Mapping[int, Mapping[str, Any]]
"""The optimizer's state of each weight that it trains, by its number among them."""
SCHEDULE_KEYS = ("base_lrs", "last_epoch", "_step_count", "_last_lr")
"""What a checkpoint keeps of the learning-rate schedule."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is written from.

    network, adapter: for names and configuration; its values are in `weights`. optimizer, optimizer_numbers: the optimizer's
    state as tensors and numbers, named `<parameter>.<entry>`. circumstances: what the manifest says beside the files' hashes.
    """

    step: int
    network: PreTrainedModel
    adapter: AdapterConfig | None
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    optimizer_numbers: Mapping[str, Any]
    schedule: Mapping[str, Any]
    random_state: Mapping[str, Tensor]
    state: Mapping[str, Any]
    circumstances: Mapping[str, Any]

    @property
    def n_bytes(self) -> int:
        """The bytes of its tensors: what a copy takes of the memory, and nearly all that the checkpoint takes of the disk."""
        storages = {}
        for tensor in [*self.weights.values(), *self.optimizer.values()]:
            storages[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return sum(storages.values())

    def copied(self) -> "Snapshot":
        """Return one whose tensors lie in the main memory and share nothing with the run's."""
        return replace(self, weights=_copies(self.weights), optimizer=_copies(self.optimizer))


@dataclass(frozen=True)
class Gathered:
    """Weights and the optimizer's state where ranks share them out, put together on the first; nothing else shares them."""

    weights: Mapping[str, Tensor]
    optimizer: OptimizerState


def weights_of(network: PreTrainedModel, is_adapter: bool) -> dict[str, Tensor]:
    """Return what a checkpoint has of the network: the adapter, or all; they share memory with it."""
    return adapter_tensors(network) if is_adapter else dict(network.state_dict())


def take_snapshot(
    step: int,
    network: PreTrainedModel,
    adapter: AdapterConfig | None,
    optimizer: Optimizer,
    schedule: LRScheduler,
    state: Mapping[str, Any],
    random: Mapping[str, Tensor] | None = None,
    circumstances: Mapping[str, Any] | None = None,
    gathered: Gathered | None = None,
) -> Snapshot:
    """Return the run as it is now, its weights and the optimizer's state still shared with it; the caller's `state` is kept.

    random: the state of the random numbers, `random_states` where several processes train; by default this process's own.
    gathered: weights and the optimizer's state, where network and optimizer have parts of them.
    """
    weights = weights_of(network, adapter is not None) if gathered is None else gathered.weights
    tensors, numbers = _flatten(optimizer.state_dict()["state"] if gathered is None else gathered.optimizer)
    values = schedule.state_dict()
    return Snapshot(
        step=step,
        network=network,
        adapter=adapter,
        weights=weights,
        optimizer=tensors,
        optimizer_numbers=numbers,
        schedule={key: values.get(key) for key in SCHEDULE_KEYS},
        random_state=random or random_state(),
        state=state,
        circumstances=circumstances or {},
    )


def random_state() -> dict[str, Tensor]:
    """Return the state of the random numbers that training draws."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def random_states(ranks: Ranks) -> dict[str, Tensor]:
    """Return the states of all ranks: the first one's by the same names, a further one's with `.<rank>` behind them."""
    states = ranks.of_each(random_state())
    others = {f"{name}.{rank}": tensor for rank, state in enumerate(states) for name, tensor in state.items() if rank}
    return dict(states[0]) | others


def restore_random_state(state: Mapping[str, Tensor], rank: int = 0) -> None:
    """Put it back; what a checkpoint doesn't have of a rank, as it was written by fewer processes, stays as it is."""
    end = f".{rank}" if rank else ""
    if f"cpu{end}" in state:
        torch.set_rng_state(state[f"cpu{end}"])
    if f"cuda{end}" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[f"cuda{end}"])


def unflatten(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the optimizer's state from tensors and numbers named `<parameter>.<entry>`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *numbers.items()]:
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    return state


def _flatten(state: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, numbers = {}, {}
    for index, entries in state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.contiguous()
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, numbers


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in main memory; names of the same tensor (tied weights) stay names of one."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
    result = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if key not in copies:
            copies[key] = tensor.detach().to("cpu", copy=True)
        result[name] = copies[key]
    return result
