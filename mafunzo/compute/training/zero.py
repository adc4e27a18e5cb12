"""DeepSpeed's ZeRO 1 and 2: processes that train together share the optimizer's state (1) and the gradients (2) out among them.
Stage 3 is zero3.py.

Trained weights stay in float32, so that DeepSpeed's own casts are off; frozen ones are in whatever they came. It averages
gradients over the processes, and a loss here is a share of the step's, to be added up: so each is multiplied by their number.

Checkpoints don't know of it. DeepSpeed lays the weights of an optimizer's group behind each other in one flat tensor, of which
each rank holds a part, and so the optimizer's state:

    weights    | W1 (4 x 3)   | W2 (2 x 5)  | b | padding      what a checkpoint has: a state for each weight, by its number
    ranks      | rank 0        | rank 1         |              what the optimizer has: a state for its part

`gathered` makes the first of the second, on all ranks together, and `load` the second of the first, on each for itself.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.ranks import Ranks
from mafunzo.compute.training.snapshot import Gathered, OptimizerState, weights_of
from mafunzo.entities.deepspeed import OFFLOADS, DeepSpeedConfig

Result = TypeVar("Result")


class DeepSpeedStepper:
    """What steps that DeepSpeed takes have in common, whatever it shares out among the ranks."""

    strategy: str

    def __init__(
        self, network: PreTrainedModel, optimizer: Optimizer, arguments: TrainingArguments, ranks: Ranks
    ) -> None:
        """Before DeepSpeed has them: it puts other weights into the optimizer's groups."""
        self.in_lockstep = ranks.size > 1
        self._network, self._base, self._ranks, self._is_adapter = network, optimizer, ranks, arguments.apply_lora
        self._weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def _start(self, module: nn.Module, settings: Mapping[str, Any]) -> None:
        """Give a module, which is the network or holds it, to DeepSpeed."""
        import deepspeed

        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=self._base, config=settings, dist_init_required=False
        )

    def backward(self, loss: Tensor, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * self._ranks.size)

    def step(self) -> float:
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def clear(self) -> None:
        """Forget the gradients of weights. What was reduced already stays: a step that broke off can't be taken again, which
        is why auto_find_batch_size is refused with DeepSpeed."""
        self._optimizer.zero_grad(set_to_none=True)

    def _states(self, whole_state: Callable[[Any], dict[str, Any]]) -> OptimizerState:
        """Return the optimizer's state as a checkpoint has it.

        whole_state: returns that of a weight, empty before the first step.
        """
        states = {index: whole_state(weight) for index, weight in enumerate(self._weights)}
        return {index: state for index, state in states.items() if state}

    def scaler_state(self) -> dict[str, Any]:
        return {}

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        pass


class DeepSpeedZero(DeepSpeedStepper):
    """Steps that DeepSpeed takes with whole weights on each rank."""

    shards_weights = False

    def __init__(
        self,
        network: PreTrainedModel,
        optimizer: Optimizer,
        arguments: TrainingArguments,
        device: torch.device,
        ranks: Ranks,
        config: DeepSpeedConfig,
    ) -> None:
        super().__init__(network, optimizer, arguments, ranks)
        self.strategy = f"ZeRO {config.stage}"
        groups = [list(group["params"]) for group in optimizer.param_groups]  # DeepSpeed puts flat ones in their place
        self._start(network, settings_of(network, arguments, device, config))
        parts = self._optimizer.single_partition_of_fp32_groups
        self._flat = {id(weight): part for group, part in zip(groups, parts, strict=True) for weight in group}

    def within(self, work: Callable[[], Result]) -> Result:
        return work()

    def forward(self, work: Callable[[], BatchLoss]) -> BatchLoss:
        return work()

    def gathered(self) -> Gathered:
        states = self._states(self._whole_state)
        return Gathered(weights_of(self._network, self._is_adapter), states)

    def _whole_state(self, weight: Tensor) -> dict[str, Any]:
        """Return the optimizer's state of a weight, put together from the ranks' parts; empty before the first step."""
        state = self._state_of(weight)
        if not self._base.state:
            return {}
        return {name: self._whole(weight, value) if value.dim() else value.clone() for name, value in state.items()}

    def _whole(self, weight: Tensor, flat: Tensor) -> Tensor:
        whole = torch.zeros(weight.numel(), dtype=flat.dtype, device=weight.device)
        if (place := _place(weight)) is not None:
            _part(whole, place.lp_fragment_address).copy_(_part(flat, place.hp_fragment_address))
        return self._ranks.add_up(whole).view(weight.shape)

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        """Return this rank's state of the flat tensor that a weight is in, perhaps with no part of it here."""
        state: dict[str, Tensor] = self._base.state[self._flat[id(weight)]]
        return state

    def load(self, weights: Iterable[tuple[str, Tensor]], state: OptimizerState) -> None:
        own = weights_of(self._network, self._is_adapter)
        for name, tensor in weights:
            own[name].copy_(tensor)
        self._optimizer.refresh_fp32_params()
        for index, weight in enumerate(self._weights):
            part = self._state_of(weight)
            for name, value in state.get(index, {}).items():
                if not value.dim():
                    part[name] = value.clone()
                    continue
                flat = part.setdefault(name, torch.zeros_like(self._flat[id(weight)]))
                if (place := _place(weight)) is not None:
                    whole = value.to(flat).flatten()
                    _part(flat, place.hp_fragment_address).copy_(_part(whole, place.lp_fragment_address))

    def make_whole(self) -> None:
        pass


def settings_of(
    network: PreTrainedModel, arguments: TrainingArguments, device: torch.device, config: DeepSpeedConfig
) -> dict[str, Any]:
    """Return DeepSpeed's settings for a run, with DeepSpeed ready for them: imported, and with a process group."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    # Left alone, it tries to compile each of its kernels, half a minute of work that has no use here.
    deepspeed.ops.__compatible_ops__ = {}
    if not torch.distributed.is_initialized():
        backend, store = "nccl" if device.type == "cuda" else "gloo", torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    settings = config.filled(int(network.config.get_text_config().hidden_size))
    if device.type == "cpu":  # whose memory everything is in
        for part in OFFLOADS:
            settings["zero_optimization"].pop(part, None)
    return settings | {
        "train_micro_batch_size_per_gpu": arguments.per_device_train_batch_size,
        "gradient_accumulation_steps": 1,  # set pass by pass, since a step's number of passes may change
        "gradient_clipping": arguments.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # which would have to be compiled
    }


def _place(weight: Any) -> Any:
    """Return where a part of a weight lies in this rank's flat tensor, None where none does."""
    return weight._hp_mapping


def _part(flat: Tensor, address: Any) -> Tensor:
    """Return the part of a flat tensor that DeepSpeed's address names."""
    return flat.narrow(0, address.start, address.numel)
