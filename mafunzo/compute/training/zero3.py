"""DeepSpeed's ZeRO 3: processes that train together share weights, gradients and the optimizer's state out among them.

A module's weights are gathered by hooks as its forward or backward pass begins, and let go after it. So the network runs
within the pass of a root that DeepSpeed holds, where what uses weights outside of their modules (the head's loss, an adapter)
finds them. Each weight is cut into as many equal parts as there are ranks, the last one padded; the trained parts of a rank
lie behind each other in flat tensors, which are what the optimizer trains:

    weight W (7 numbers)     rank 0 [0 1 2 3]   rank 1 [4 5 6 -]
    the optimizer's tensor   rank 0 [part of W1 | part of W2 | ...]

DeepSpeed's optimizer has no state before the first step, and its first step is the run's: nothing of what a checkpoint holds
moves as it starts. A product keeps the weight itself for its backward pass, not a view of it, which would hold the gathered
numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.ranks import Ranks
from mafunzo.compute.training.snapshot import Gathered, OptimizerState, weights_of
from mafunzo.compute.training.zero import start_engine
from mafunzo.entities.deepspeed import DeepSpeedConfig


class Root(nn.Module):
    """The network and all that is computed with it: one forward pass, within which its weights may be used."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network
        self.work: Callable[[], Tensor] = lambda: torch.zeros(())

    def forward(self) -> Tensor:
        return self.work()


class DeepSpeedZero3:
    """Steps that DeepSpeed takes with weights that it has shared out."""

    strategy = "ZeRO 3"

    def __init__(
        self,
        network: PreTrainedModel,
        optimizer: Optimizer,
        arguments: TrainingArguments,
        device: torch.device,
        ranks: Ranks,
        config: DeepSpeedConfig,
    ) -> None:
        self.in_lockstep = self.shards_weights = ranks.size > 1
        self._network, self._base, self._ranks = network, optimizer, ranks
        self._weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._named = _named_weights(network, arguments.apply_lora)
        self._containers = [(module, module._parameters) for module in network.modules()]
        self._linears = list(keep_weights_whole(network))
        self._root = Root(network)
        # else torch's product is replaced for the whole process
        settings = {"zero_optimization": {"memory_efficient_linear": False}}
        self._engine, self._optimizer = start_engine(
            self._root, network, optimizer, arguments, device, config, settings
        )
        _gather_head_with(self._root)

    def forward(self, work: Callable[[], BatchLoss]) -> BatchLoss:
        results = list[BatchLoss]()

        def loss_sum() -> Tensor:
            results.append(work())
            return results[0].loss_sum

        self._root.work = loss_sum
        total = self._engine()
        self._root.work = lambda: torch.zeros(())
        return BatchLoss(total, results[0].counts)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK as stack

        self._engine.set_gradient_accumulation_boundary(is_last)
        depth = len(stack)
        self._engine.backward(loss * self._ranks.size)
        del stack[depth:]  # a layer that is computed again stops where it has all, and leaves its modules on the stack

    def step(self) -> float:
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        self._forget_gradients()
        return float(self._engine.get_global_grad_norm())

    def clear(self) -> None:
        """Forget all gradients."""
        self._optimizer.zero_grad(set_to_none=True)
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        """Clear this rank's parts: DeepSpeed would take those of the step before for a weight that no pass of a step used."""
        self._optimizer.grad_partitions_flat_buffer.zero_()

    def gathered(self) -> Gathered:
        wholes: dict[int, Tensor] = {}  # names of one tensor stay names of one
        for weight in self._named.values():
            if id(weight) not in wholes:
                wholes[id(weight)] = self._first(self._whole(weight, _part(weight)))
        weights = {name: wholes[id(weight)] for name, weight in self._named.items()}
        states = {index: self._whole_state(weight) for index, weight in enumerate(self._weights)}
        return Gathered(weights, {index: state for index, state in states.items() if state})

    def _whole_state(self, weight: Any) -> dict[str, Any]:
        """Return the optimizer's state of a weight, put together on the first rank; empty before the first step."""
        flat, place = self._flat(weight)
        state: Mapping[str, Tensor] = self._base.state.get(flat, {})
        return {
            name: self._first(self._whole(weight, value[place])) if value.dim() else value.clone()
            for name, value in state.items()
        }

    def _flat(self, weight: Any) -> tuple[Tensor, slice]:
        """Return the flat tensor that the optimizer trains and that this rank's part of a weight is in, and its place there."""
        group, start, numbers = self._optimizer.grad_position[weight.ds_id]
        return self._optimizer.fp32_partitioned_groups_flat[group], slice(start, start + numbers)

    def _whole(self, weight: Any, part: Tensor) -> Tensor:
        """Return a weight, or a tensor like it, of the parts of all ranks."""
        if not _is_shared(weight):
            return part.detach().clone()
        parts = [torch.empty_like(part) for _ in range(self._ranks.size)]
        if self._ranks.size > 1:
            distributed.all_gather(parts, part.detach().contiguous())
        else:
            parts = [part.detach()]
        return torch.cat(parts)[: weight.ds_numel].view(weight.ds_shape)

    def _first(self, tensor: Tensor) -> Tensor:
        return tensor.cpu() if self._ranks.is_first else torch.empty(0)

    def load(self, weights: Iterable[tuple[str, Tensor]], state: OptimizerState) -> None:
        """Go on with such weights and state; each rank does by itself, with nothing gathered."""
        for name, tensor in weights:
            own = self._named[name]
            if _is_shared(own):
                _part(own).copy_(self._part_of(tensor, own))
            if own.numel():  # a buffer, or a small weight that each rank has whole
                own.data.copy_(tensor)
        self._optimizer.refresh_fp32_params()
        for index, weight in enumerate(self._weights):
            flat, place = self._flat(weight)
            for name, value in state.get(index, {}).items():
                if not value.dim():
                    self._base.state[flat][name] = value.clone()
                    continue
                whole = self._base.state[flat].setdefault(name, torch.zeros_like(flat, requires_grad=False))
                whole[place] = self._part_of(value, weight).to(whole)

    def _part_of(self, tensor: Tensor, weight: Any) -> Tensor:
        """Return this rank's part of a whole tensor, cut as a weight is."""
        numbers = weight.ds_tensor.ds_numel
        flat = tensor.flatten()[self._ranks.rank * numbers : (self._ranks.rank + 1) * numbers]
        return torch.cat([flat, flat.new_zeros(numbers - flat.numel())])

    def make_whole(self) -> None:
        weights = {id(weight): weight for module, _ in self._containers for weight in module._parameters.values()}
        wholes: dict[int, nn.Parameter | None] = {id(None): None}
        for key, weight in weights.items():
            if weight is not None:
                wholes[key] = nn.Parameter(self._first(self._whole(weight, _part(weight))), requires_grad=False)
        self._engine.destroy()
        _forget_root(self._root)
        for module, parameters in self._containers:
            for name, weight in module._parameters.items():
                parameters[name] = wholes[id(weight)]
            module._parameters = parameters
        for linear in self._linears:
            del linear.forward

    def scaler_state(self) -> dict[str, Any]:
        return {}

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        pass


def _named_weights(network: PreTrainedModel, is_adapter: bool) -> dict[str, Tensor]:
    """Return by name what a checkpoint has of the network: the weights themselves, of which DeepSpeed will hold parts."""
    weights = {weight.data_ptr(): weight for weight in network.parameters()}
    return {name: weights.get(tensor.data_ptr(), tensor) for name, tensor in weights_of(network, is_adapter).items()}


def keep_weights_whole(network: nn.Module) -> Iterator[Any]:
    """Have linear layers keep the weight itself for the backward pass, and yield them."""
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    def forward(linear: nn.Linear, x: Tensor) -> Tensor:
        y: Tensor = zero3_linear_wrap(x, linear.weight, linear.bias)
        return y

    for module in network.modules():
        if isinstance(module, nn.Linear) and "forward" not in vars(module):
            module.forward = MethodType(forward, module)  # type: ignore[method-assign]
            yield module


def _gather_head_with(root: Root) -> None:
    """Have the head's weights there for the whole pass of the root, whatever module uses them meanwhile (a tied embedding)."""
    from deepspeed.runtime.zero import register_external_parameter

    head = root.network.get_output_embeddings()
    for weight in () if head is None else head.parameters():
        register_external_parameter(root, weight)


def _is_shared(weight: Any) -> bool:
    return getattr(weight, "ds_tensor", None) is not None


def _part(weight: Any) -> Tensor:
    """Return this rank's part of a weight, or all of what isn't shared out (a buffer)."""
    part: Tensor = weight.ds_tensor if _is_shared(weight) else weight
    return part


def _forget_root(root: nn.Module) -> None:
    """Take the root off the stack on which DeepSpeed keeps it for good."""
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK as stack

    stack[:] = [module for module in stack if module is not root]
