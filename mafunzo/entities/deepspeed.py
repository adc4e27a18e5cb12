"""A DeepSpeed configuration of one's own (the JSON of `deepspeed`): its keys, each honoured or refused by name.

The parameters decide how training goes. So a key that says the same as a parameter must have its value, or "auto", which is
filled with it, as in Hugging Face's Trainer. What only DeepSpeed has (how ZeRO shards, sizes of buckets, offload) goes to
its engine.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mafunzo.entities.component import unknown_name
from mafunzo.entities.parameters.constraint import ADAMW, rows_per_step
from mafunzo.errors import InvalidFile, InvalidParameter

AUTO = "auto"
OFFLOADS = ("offload_optimizer", "offload_param")
"""What ZeRO may keep in another memory."""
Values = Mapping[str, Any]
Check = Callable[[str, Any, Values], str]
"""A key, its value and the parameters in; the fault out, or an empty text."""


@dataclass(frozen=True)
class DeepSpeedConfig:
    """stage: of ZeRO. engine: what DeepSpeed's engine is started with, beside what the parameters decide."""

    stage: int
    engine: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_stage(cls, stage: int) -> "DeepSpeedConfig":
        """Return what a stage is run with where there is no configuration of one's own: sizes that follow from the network.

        DeepSpeed's own of stage 3 are for networks of billions of weights, and gather all of a smaller one at once.
        """
        return cls(stage, {"zero_optimization": dict.fromkeys(_FILLED, AUTO)} if stage == 3 else {})

    @property
    def offloads(self) -> bool:
        """Whether optimizer or weights are to lie in another memory than that of what computes."""
        parts = [self.engine.get("zero_optimization", {}).get(part, {}) for part in OFFLOADS]
        return any(part.get("device", "none") not in ("none", AUTO) for part in parts)

    def filled(self, hidden_size: int) -> dict[str, Any]:
        """Return `engine` with the sizes that are "auto" as Hugging Face's Trainer fills them, by the network's width."""
        zero = {
            name: _FILLED[name](hidden_size) if value == AUTO else value
            for name, value in self.engine.get("zero_optimization", {}).items()
            if value != AUTO or name in _FILLED
        }
        others = {name: value for name, value in self.engine.items() if value != AUTO}
        return others | {"zero_optimization": zero | {"stage": self.stage}}


def deepspeed_config(text: str, where: str, values: Values) -> DeepSpeedConfig:
    """Read a JSON text; raises `InvalidFile`, or `InvalidParameter` with all faults.

    where: what the text is called in errors. values: every parameter as its type.
    """
    leaves = dict(_leaves(_object(text, where)))
    faults = [fault for key, value in leaves.items() if (fault := _fault(key, value, leaves, values))]
    if not values["apply_deepspeed"]:
        faults.insert(
            0, "deepspeed is given while apply_deepspeed is 'false'. Set apply_deepspeed true, or leave it out."
        )
    if faults:
        raise InvalidParameter(f"{where} can't be used.", faults)
    engine: dict[str, Any] = {}
    for key, value in leaves.items():
        if key in _PASSED:
            *sections, name = key.split(".")
            place = engine
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = value
    return DeepSpeedConfig(_stage_of(leaves, values), engine)


def _object(text: str, where: str) -> dict[str, Any]:
    example = 'Give an object such as {"zero_optimization": {"stage": 2}}.'
    try:
        body = json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise InvalidFile(f"{where} is not JSON: {error}. {example}") from error
    if not isinstance(body, dict):
        raise InvalidFile(f"{where} is a {type(body).__name__}, expected an object. {example}")
    return body


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{', '.join(repeated)} is given twice")
    return dict(pairs)


def _leaves(body: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values by their keys with dots between; a section that is refused or unknown stays whole."""
    for name, value in body.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key in _SECTIONS:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _fault(key: str, value: Any, leaves: Mapping[str, Any], values: Values) -> str:
    if key in _SECTIONS:
        return f"{key} is {_show(value)}, expected an object."
    if key in _CHECKS:
        return _CHECKS[key](key, value, {**values, **_facts(leaves, values)})
    section, _, name = key.rpartition(".")
    if key in _REFUSED:
        is_off = isinstance(value, dict) and value.get("enabled") is False
        return "" if is_off else f"{key} is given: {_REFUSED[key]} Leave it out."
    prefix = f"{section}." if section else ""
    siblings = [one.removeprefix(prefix) for one in (*_CHECKS, *_SECTIONS, *_REFUSED) if one.startswith(prefix)]
    return f"{prefix}{unknown_name(name, [one for one in siblings if '.' not in one])}"


def _facts(leaves: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Return what keys are checked against beside the parameters."""
    has_warmup = values["warmup_steps"] > 0 or values["warmup_ratio"] > 0
    return {"has_warmup": has_warmup, "stage": _stage_of(leaves, values)}


def _stage_of(leaves: Mapping[str, Any], values: Values) -> int:
    stage = leaves.get("zero_optimization.stage", AUTO)
    return stage if stage in (1, 2, 3) else int(values["deepspeed_stage"])


def _show(value: Any) -> str:
    return json.dumps(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(parameter: str) -> Check:
    """The value must be the parameter's."""
    return _equals(lambda values: values[parameter], parameter)


def _equals(expected_of: Callable[[Values], Any], what: str) -> Check:
    def check(key: str, value: Any, values: Values) -> str:
        expected = expected_of(values)
        is_equal = value == expected and isinstance(value, bool) == isinstance(expected, bool)
        if value == AUTO or is_equal:
            return ""
        return f'{key} is {_show(value)}, while {what} is {_show(expected)}. Write "auto", or make them equal.'

    return check


def _only(allowed: Any, reason: str) -> Check:
    def check(key: str, value: Any, values: Values) -> str:
        is_allowed = value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
        return "" if is_allowed or value == AUTO else f"{key} is {_show(value)}, expected {_show(allowed)}: {reason}"

    return check


def _truth(key: str, value: Any, values: Values) -> str:
    return "" if isinstance(value, bool) or value == AUTO else f"{key} is {_show(value)}, expected true or false."


def _number(key: str, value: Any, values: Values) -> str:
    return "" if _is_number(value) or value == AUTO else f"{key} is {_show(value)}, expected a number."


def _whole(least: int) -> Check:
    def check(key: str, value: Any, values: Values) -> str:
        is_whole = _is_number(value) and value >= least and float(value).is_integer()
        if is_whole or value == AUTO:
            return ""
        return f"{key} is {_show(value)}, expected a whole number, {least} or more."

    return check


def _one_of(*names: str) -> Check:
    def check(key: str, value: Any, values: Values) -> str:
        return "" if value in (*names, AUTO) else f"{key} is {_show(value)}, expected one of {', '.join(names)}."

    return check


def _stage(key: str, value: Any, values: Values) -> str:
    if value == AUTO:
        return ""
    if value not in (1, 2, 3) or isinstance(value, bool):
        return f"{key} is {_show(value)}, expected 1, 2 or 3. Without sharding, set apply_deepspeed false."
    if values["deepspeed_stage"] != "2" and values["deepspeed_stage"] != str(value):
        return f"{key} is {value}, while deepspeed_stage is {values['deepspeed_stage']}. Leave one of both out."
    return ""


def _bfloat16(key: str, value: Any, values: Values) -> str:
    if value == AUTO or value is (values["precision"] == "16"):
        return ""
    if not isinstance(value, bool):
        return _truth(key, value, values)
    needed = "16" if value else "32"
    return (
        f'{key} is {_show(value)}, while precision is {values["precision"]}. Write "auto", or set precision {needed}.'
    )


def _float16(key: str, value: Any, values: Values) -> str:
    if value is True:
        return f"{key} is true: float16 isn't supported with DeepSpeed. Use bf16, with precision 16."
    return _truth(key, value, values)


def _optimizer(key: str, value: Any, values: Values) -> str:
    fault = _one_of("AdamW", "Adam")(key, value, values)
    if fault or values["optim"] in ADAMW:
        return fault
    return (
        f"{key} is {_show(value)}, while optim is {values['optim']}. Leave the section out, or set optim adamw_torch."
    )


_SCHEDULES = {"WarmupLR": "constant_with_warmup", "WarmupDecayLR": "linear"}


def _schedule(key: str, value: Any, values: Values) -> str:
    if value == AUTO:
        return ""
    if value not in _SCHEDULES:
        return (
            f"{key} is {_show(value)}, expected one of {', '.join(_SCHEDULES)}. Leave the section out, and set "
            "lr_scheduler_type."
        )
    kind, expected = values["lr_scheduler_type"], _SCHEDULES[value]
    is_equal = kind == expected or (kind == "constant" and value == "WarmupLR" and not values["has_warmup"])
    return "" if is_equal else f"{key} is {value}, while lr_scheduler_type is {kind}. Set lr_scheduler_type {expected}."


def _warmup_type(key: str, value: Any, values: Values) -> str:
    fault = _one_of("linear", "log")(key, value, values)
    if fault or value != "log" or not values["has_warmup"]:
        return fault
    return f'{key} is "log", and the warm-up here is linear. Write "linear".'


def _warmup_steps(key: str, value: Any, values: Values) -> str:
    if values["warmup_ratio"] > 0 and value != AUTO:
        return f'{key} is {_show(value)}, while warmup_ratio is {values["warmup_ratio"]:g}. Write "auto".'
    return _same("warmup_steps")(key, value, values)


def _total_steps(key: str, value: Any, values: Values) -> str:
    if value == AUTO or value == values["max_steps"] > 0:
        return ""
    return f'{key} is {_show(value)}: how many steps there are follows from the rows. Write "auto", or set max_steps to it.'


def _offload(key: str, value: Any, values: Values) -> str:
    if value == "nvme":
        return f'{key} is "nvme", which needs a library that is compiled at the start. Use "cpu" or "none".'
    return _one_of("none", "cpu")(key, value, values)


_EARLY, _LATE = (1, 2), (3,)
_ZERO: Mapping[str, tuple[Check, tuple[int, ...]]] = {
    "contiguous_gradients": (_truth, (1, 2, 3)),
    "overlap_comm": (_truth, (1, 2, 3)),
    "reduce_bucket_size": (_whole(1), (1, 2, 3)),
    "reduce_scatter": (_truth, (1, 2, 3)),
    "allgather_bucket_size": (_whole(1), _EARLY),
    "allgather_partitions": (_truth, _EARLY),
    "ignore_unused_parameters": (_truth, _EARLY),
    "round_robin_gradients": (_truth, _EARLY),
    "sub_group_size": (_whole(0), _LATE),
    "stage3_max_live_parameters": (_whole(0), _LATE),
    "stage3_max_reuse_distance": (_whole(0), _LATE),
    "stage3_param_persistence_threshold": (_whole(0), _LATE),
    "stage3_prefetch_bucket_size": (_whole(0), _LATE),
    "offload_optimizer.device": (_offload, (1, 2, 3)),
    "offload_optimizer.pin_memory": (_truth, (1, 2, 3)),
    "offload_param.device": (_offload, _LATE),
    "offload_param.pin_memory": (_truth, _LATE),
}
"""What ZeRO alone has, by how it is checked and the stages that use it."""


def _zero(check: Check, stages: tuple[int, ...]) -> Check:
    def checked(key: str, value: Any, values: Values) -> str:
        stage = values["stage"]
        if stage in stages or (key.endswith(".device") and value == "none"):
            return check(key, value, values)
        return f"{key} is of stage {' or '.join(map(str, stages))}, and the stage is {stage}. Leave it out."

    return checked


_FILLED: Mapping[str, Callable[[int], int]] = {
    "reduce_bucket_size": lambda width: width * width,
    "stage3_prefetch_bucket_size": lambda width: int(0.9 * width * width),
    "stage3_param_persistence_threshold": lambda width: 10 * width,
}
"""The sizes that Hugging Face's Trainer fills by the network's width; any other "auto" is DeepSpeed's default."""
_CHECKS: Mapping[str, Check] = {
    "train_batch_size": _equals(rows_per_step, "the effective batch of the parameters"),
    "train_micro_batch_size_per_gpu": _same("per_device_train_batch_size"),
    "gradient_accumulation_steps": _same("gradient_accumulation_steps"),
    "gradient_clipping": _same("max_grad_norm"),
    "bf16.enabled": _bfloat16,
    "fp16.enabled": _float16,
    # of float16, which is off: DeepSpeed doesn't look at them then, and files that are passed around have them
    **{
        f"fp16.{name}": _number
        for name in ("loss_scale", "loss_scale_window", "initial_scale_power", "hysteresis", "min_loss_scale")
    },
    "fp16.auto_cast": _truth,
    "fp16.consecutive_hysteresis": _truth,
    "optimizer.type": _optimizer,
    "optimizer.params.lr": _same("learning_rate"),
    "optimizer.params.betas": _equals(
        lambda values: [values["adam_beta1"], values["adam_beta2"]], "[adam_beta1, adam_beta2]"
    ),
    "optimizer.params.eps": _same("adam_epsilon"),
    "optimizer.params.weight_decay": _same("weight_decay"),
    "optimizer.params.torch_adam": _only(True, "the optimizer is torch's."),
    "optimizer.params.adam_w_mode": _only(True, "weight decay is decoupled."),
    "scheduler.type": _schedule,
    "scheduler.params.warmup_min_lr": _only(0, "the warm-up begins at 0."),
    "scheduler.params.warmup_max_lr": _same("learning_rate"),
    "scheduler.params.warmup_num_steps": _warmup_steps,
    "scheduler.params.warmup_type": _warmup_type,
    "scheduler.params.total_num_steps": _total_steps,
    "zero_optimization.stage": _stage,
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": _truth,  # what is saved is always whole
    **{f"zero_optimization.{name}": _zero(*checked) for name, checked in _ZERO.items()},
    "zero_allow_untested_optimizer": _only(True, "the optimizer is torch's."),
    "zero_force_ds_cpu_optimizer": _only(False, "DeepSpeed's own would be compiled at the start; torch's is used."),
    "wall_clock_breakdown": _only(False, "times are in the log and the metrics."),
    "steps_per_print": _whole(1),
}
_PASSED = frozenset({"steps_per_print", *(f"zero_optimization.{name}" for name in _ZERO)})
"""What goes to DeepSpeed as it is."""
_SECTIONS = frozenset(key[:dot] for key in _CHECKS for dot, letter in enumerate(key) if letter == ".")
_NOT_HERE = "it isn't supported here."
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "aio",
            "autotuning",
            "checkpoint",
            "comms_logger",
            "communication_data_type",
            "compile",
            "compression_training",
            "csv_monitor",
            "curriculum_learning",
            "data_efficiency",
            "data_types",
            "dataloader_drop_last",
            "disable_allgather",
            "dump_state",
            "eigenvalue",
            "elasticity",
            "flops_profiler",
            "gradient_predivide_factor",
            "hybrid_engine",
            "memory_breakdown",
            "monitor_config",
            "nebula",
            "pipeline",
            "prescale_gradients",
            "progressive_layer_drop",
            "quantize_training",
            "sequence_parallel_size",
            "sparse_attention",
            "sparse_gradients",
            "tensor_parallel",
            "torch_autocast",
            "weight_quantization",
            *(
                f"zero_optimization.{name}"
                for name in (
                    "elastic_checkpoint",
                    "leaf_module",
                    "load_from_fp32_weights",
                    "memory_efficient_linear",
                    "stage3_model_persistence_threshold",
                    "stage3_module_granularity_threshold",
                    "zenflow",
                    "zero_hpz_partition_size",
                    "zero_quantized_gradients",
                    "zero_quantized_weights",
                )
            ),
        ),
        _NOT_HERE,
    ),
    **dict.fromkeys(("tensorboard", "wandb", "comet"), "metrics are logged by Mafunzo."),
    "activation_checkpointing": "layers are computed again as memory needs it, or by gradient_checkpointing.",
    "amp": "Apex isn't supported. Use bf16, with precision 16.",
}
