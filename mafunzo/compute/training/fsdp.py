"""Fully sharded data parallelism (FSDP2, `torch.distributed.fsdp.fully_shard`): each rank has a part of every weight.

A layer's weights are gathered from all ranks before its forward and backward pass and let go after it; its gradients are summed
into the parts. So weights, gradients and the optimizer's state take 1/n of the memory each, and what has to be whole at a time
is one layer, and what belongs to none (embedding, last norm, head).

    rank 0   [part of W1][part of W2] ...     gather W1 | layer 1 | let go | gather W2 | layer 2 | ...
    rank 1   [part of W1][part of W2] ...     the same, at the same time (lockstep.py)

What uses the weights outside of the layers (the head's loss) runs within the forward pass of a root that holds the whole
network.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.parts import give_parts, names_of, take_parts
from mafunzo.compute.training.ranks import Ranks
from mafunzo.compute.training.snapshot import Gathered, OptimizerState, weights_of

Result = TypeVar("Result")


class Root(nn.Module):
    """The network and all that is computed with it: one forward pass, within which its weights may be used."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


def shard(network: PreTrainedModel, ranks: Ranks, device: torch.device) -> Root:
    """Share out among the ranks, in place, a network of which each has parts (parts.py) and perhaps a whole adapter.

    An optimizer is made of its parameters after that.
    """
    parts = names_of(network, take_parts(network, device))
    mesh = init_device_mesh(device.type, (ranks.size,))
    for layer in [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    root = Root(network)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # losses are shares of the step's already
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    cast(FSDPModule, root).set_reduce_scatter_unused_params(True)  # an expert that a rank had no token for
    give_parts(parts)
    return root


class FullySharded:
    """The optimizer as it is, of each rank's parts."""

    strategy = "fsdp"
    in_lockstep = True
    shards_weights = True

    def __init__(self, root: Root, optimizer: Optimizer, arguments: TrainingArguments, ranks: Ranks) -> None:
        self._root, self._network, self._optimizer, self._ranks = root, root.network, optimizer, ranks
        self._max_norm, self._is_adapter = arguments.max_grad_norm, arguments.apply_lora

    def within(self, work: Callable[[], Result]) -> Result:
        result: Result = self._root(work)
        return result

    def forward(self, work: Callable[[], BatchLoss]) -> BatchLoss:
        loss_sum, result = self._root(lambda: _flat(work()))
        return BatchLoss(loss_sum, result.counts)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        norm = self._clip()
        self._optimizer.step()
        self.clear()
        return norm

    def _clip(self) -> float:
        """Scale the gradients down as `optimizer.clip` does, and return their norm before."""
        parts = [local(weight.grad) for weight in self._trained() if weight.grad is not None]
        squares = sum(float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2 for part in parts)
        norm = math.sqrt(self._ranks.sums([squares])[0])
        if self._max_norm > 0 and norm > self._max_norm:
            for part in parts:
                part.mul_(self._max_norm / (norm + 1e-6))
        return norm

    def _trained(self) -> list[nn.Parameter]:
        return [weight for group in self._optimizer.param_groups for weight in group["params"]]

    def clear(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def gathered(self) -> Gathered:
        state = self._optimizer.state_dict()["state"]
        return Gathered(
            self._whole_by_name(weights_of(self._network, self._is_adapter)),
            {index: self._whole_by_name(entries) for index, entries in state.items()},
        )

    def _whole_by_name(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return tensors put together on the first rank; the other ranks keep none. Names of one tensor stay names of one."""
        wholes: dict[int, Tensor] = {}
        result = {}
        for name, tensor in tensors.items():
            part = local(tensor)
            key = part.data_ptr() if part.numel() else id(tensor)
            if key not in wholes:
                whole = self._whole(tensor)
                wholes[key] = whole if self._ranks.is_first else torch.empty(0)
            result[name] = wholes[key]
        return result

    def _whole(self, tensor: Tensor) -> Tensor:
        with torch.no_grad():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()
        return whole.detach().cpu()

    def load(self, weights: Iterable[tuple[str, Tensor]], state: OptimizerState) -> None:
        own = weights_of(self._network, self._is_adapter)
        for name, tensor in weights:
            local(own[name]).copy_(local(_like(tensor, own[name])))
        trained = self._trained()
        for index, entries in state.items():
            weight = trained[index]
            self._optimizer.state[weight] = {
                name: _like(value.to(weight.device), weight) if value.dim() else value.clone()
                for name, value in entries.items()
            }

    def make_whole(self) -> None:
        wholes: dict[Any, nn.Parameter] = {}
        for module in list(self._root.modules()):
            weights: Mapping[str, Any] = dict(module._parameters)
            for name, weight in weights.items():
                if isinstance(weight, DTensor):
                    if weight not in wholes:
                        whole = self._whole(weight)
                        wholes[weight] = nn.Parameter(whole if self._ranks.is_first else torch.empty(0), False)
                    module._parameters[name] = wholes[weight]
            if isinstance(module, FSDPModule):
                module.__class__ = type(module).__bases__[1]  # what it was: it shards nothing any more

    def scaler_state(self) -> dict[str, Any]:
        return {}

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        pass


def _flat(result: BatchLoss) -> tuple[Tensor, BatchLoss]:
    """Return a pass's result as a tuple, in which its root finds the tensor that it came to."""
    return result.loss_sum, result


def local(tensor: Any) -> Tensor:
    """Return this rank's part of a tensor that is shared out, or all of another."""
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
    part: Tensor = getattr(tensor, "ds_tensor", tensor)  # where DeepSpeed has it
    return part


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor, which each rank has, as one that is shared out as another is."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
