"""DeepSpeed's ZeRO 3: processes that train together share weights, gradients and the optimizer's state out among them.

A module's weights are gathered by hooks as its forward or backward pass begins, and let go after it. So the network runs
within the pass of a root that DeepSpeed holds, where what uses weights outside of their modules (the head's loss, an adapter)
finds them. Each weight is cut into as many equal parts as there are ranks, the last one padded; the trained parts of a rank
lie behind each other in flat tensors, which are what the optimizer trains:

    weight W (7 numbers)     rank 0 [0 1 2 3]   rank 1 [4 5 6 -]
    the optimizer's tensor   rank 0 [part of W1 | part of W2 | ...]

A base is read as parts (parts.py), so that no rank loads it whole: one weight after the other is gathered, and let go as
DeepSpeed cuts it again.

DeepSpeed's optimizer has no state before the first step, and its first step is the run's: nothing of what a checkpoint holds
moves as it starts. A product keeps the weight itself for its backward pass, not a view of it, which would hold the gathered
numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.parts import weights_in, whole_of
from mafunzo.compute.training.ranks import Ranks
from mafunzo.compute.training.snapshot import Gathered, OptimizerState, weights_of
from mafunzo.compute.training.zero import DeepSpeedStepper, Result, settings_of
from mafunzo.entities.deepspeed import DeepSpeedConfig


class Root(nn.Module):
    """The network and all that is computed with it: one forward pass, within which its weights may be used."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


class DeepSpeedZero3(DeepSpeedStepper):
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
        self.shards_weights = ranks.size > 1
        settings = settings_of(network, arguments, device, config)
        # else torch's product is replaced for the whole process
        settings["zero_optimization"] |= {"memory_efficient_linear": False}
        adapter = _adapter_weights(network) if arguments.apply_lora else None
        cut_parts(network, optimizer, settings, device)
        self._named = dict(network.state_dict(keep_vars=True)) if adapter is None else adapter
        super().__init__(network, optimizer, arguments, ranks)
        self._containers = [(module, module._parameters) for module in network.modules()]
        self._linears = list(keep_weights_whole(network))
        self._root = Root(network)
        self._start(self._root, settings)
        _gather_head_with(self._root)

    def within(self, work: Callable[[], Result]) -> Result:
        results = list[Result]()
        self._pass(lambda: results.append(work()))  # DeepSpeed would warn of a result that it finds no tensors in
        return results[0]

    def forward(self, work: Callable[[], BatchLoss]) -> BatchLoss:
        loss_sum, counts = self._pass(lambda: _flat(work()))
        return BatchLoss(loss_sum, counts)

    def _pass(self, work: Callable[[], Any]) -> Any:
        """Return `work()`, in a forward pass of the root."""
        from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK as stack

        depth = len(stack)
        result = self._engine(work)
        del stack[depth:]  # where the work went on after an error, the modules that it came from are still there
        return result

    def backward(self, loss: Tensor, is_last: bool) -> None:
        from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK as stack

        depth = len(stack)
        super().backward(loss, is_last)
        del stack[depth:]  # a layer that is computed again stops where it has all, and leaves its modules on the stack

    def step(self) -> float:
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        self._forget_gradients()
        return float(self._engine.get_global_grad_norm())

    def clear(self) -> None:
        super().clear()
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        """Clear this rank's parts: DeepSpeed would take those of the step before for a weight that no pass of a step used."""
        self._optimizer.grad_partitions_flat_buffer.zero_()

    def gathered(self) -> Gathered:
        wholes: dict[int, Tensor] = {}  # names of one tensor stay names of one
        for weight in self._named.values():
            if id(weight) not in wholes:
                wholes[id(weight)] = self._first(self._whole(weight, _part(weight)))
        return Gathered(
            {name: wholes[id(weight)] for name, weight in self._named.items()}, self._states(self._whole_state)
        )

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


def _flat(result: BatchLoss) -> tuple[Tensor, Mapping[str, float]]:
    """Return a pass's result as a tuple, in which DeepSpeed finds the tensor that it came to."""
    return result.loss_sum, result.counts


def _adapter_weights(network: PreTrainedModel) -> dict[str, Tensor]:
    """Return by name what a checkpoint has of an adapter: the weights themselves, of which DeepSpeed will hold parts."""
    weights = {weight.data_ptr(): weight for weight in network.parameters() if weight.requires_grad}
    return {name: weights[tensor.data_ptr()] for name, tensor in weights_of(network, is_adapter=True).items()}


def cut_parts(network: nn.Module, optimizer: Optimizer, settings: Mapping[str, Any], device: torch.device) -> None:
    """Have DeepSpeed cut the weights of a network of parts, and the optimizer train what has come into their places.

    No more than one is whole at a time. Nothing is done where all are: DeepSpeed cuts these as it starts.
    """
    from deepspeed.runtime.zero import Init

    if not any(isinstance(weight, DTensor) for weight in network.parameters()):
        return
    places = dict[int, list[tuple[nn.Module, str]]]()
    for module, name, weight in weights_in(network):
        places.setdefault(id(weight), []).append((module, name))
    groups = [[places[id(weight)][0] for weight in group["params"]] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["params"] = []  # else it would keep the parts
    for own in places.values():
        whole = whole_of(own[0][0]._parameters[own[0][1]])
        for module, name in own:
            module._parameters[name] = whole
        Init(module=nn.ParameterList([whole]), config_dict_or_path=dict(settings))
    for group, trained in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = [module._parameters[name] for module, name in trained]
    for buffer in network.buffers():
        buffer.data = buffer.data.to(device)


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
