"""What must hold between the parameters of a fine-tuning job that are each in their range."""

import json
import math
from collections.abc import Mapping
from typing import Any

from mafunzo.entities.parameters.lora import lora_faults
from mafunzo.entities.parameters.optimizer import OPTIMIZER

ADAMW = ("adamw_torch", "adamw_torch_fused")
WSD = ("warmup_stable_decay", "wsd")
"""What transformers, and what others call the schedule that stays at its highest learning rate and falls at the end."""
SPLIT_OF_LAST = (
    "long_rows is 'split' while train_on is 'last', which is of a whole conversation. "
    "Use truncate or drop, or train_on assistant."
)
NAME_LISTS: Mapping[str, tuple[type, ...]] = {
    "lora_target_modules": (str,),
    "exclude_modules": (str,),
    "layers_to_transform": (str, int),
    "layers_pattern": (str,),
}
"""The parameters that are names or numbers with commas between, and may be given as a list of such."""
OBJECTS = frozenset({"rank_pattern", "alpha_pattern"})
"""The parameters that are a JSON object, and may be given as one."""


def faults_between(values: Mapping[str, Any]) -> list[str]:
    """Return the faults; `values` holds every parameter as its type, with its default where none was given."""
    strategy, interval = values["evaluation_strategy"], values["evaluation_steps_interval"]
    n_processes, step_rows = values["cpu_processes_finetune"], rows_per_step(values)
    max_steps, warmup_steps = values["max_steps"], values["warmup_steps"]
    is_fsdp = values["data_parallel_strategy"] == "fsdp"
    rules = (
        (
            values["apply_early_stopping"] and strategy == "disable",
            "apply_early_stopping is 'true' while evaluation_strategy is 'disable': there is no validation loss to stop by. "
            "Use epoch or steps.",
        ),
        (
            interval > 0 and strategy != "steps",
            f"evaluation_steps_interval is {interval} while evaluation_strategy is '{strategy}'. Use evaluation_strategy "
            "steps.",
        ),
        (max_steps == 0, "max_steps is 0, expected 1 or more, or -1 to train for num_train_epochs."),
        (
            values["save_total_limit"] == 0,
            "save_total_limit is 0, expected 1 or more, or -1 to keep all checkpoints.",
        ),
        (
            values["max_seq_length"] == 0,
            "max_seq_length is 0, expected 1 or more, or -1 for the longest that the model takes.",
        ),
        (
            warmup_steps > 0 and values["warmup_ratio"] > 0,
            "warmup_steps and warmup_ratio are both given. Leave one of them out.",
        ),
        (
            0 < max_steps < warmup_steps,
            f"warmup_steps is {warmup_steps}, more than all {max_steps} of max_steps.",
        ),
        (
            values["apply_deepspeed"] and values["auto_find_batch_size"],
            "apply_deepspeed and auto_find_batch_size are both 'true', which DeepSpeed can't do. Set one to false.",
        ),
        (
            values["deepspeed_stage"] == "3" and not values["apply_deepspeed"],
            "deepspeed_stage is '3' while apply_deepspeed is 'false'. Set apply_deepspeed true, or leave it out.",
        ),
        (
            is_fsdp and values["apply_deepspeed"],
            "apply_deepspeed is 'true' while data_parallel_strategy is 'fsdp': each shards by itself. Keep one of both.",
        ),
        (
            is_fsdp and values["auto_find_batch_size"],
            "data_parallel_strategy is 'fsdp' while auto_find_batch_size is 'true': a process whose memory runs out can't take "
            "a step again alone. Set one of both to its default.",
        ),
        (
            n_processes > step_rows,
            f"cpu_processes_finetune is {n_processes}, and the rows of a step, which they share, are {step_rows}. Raise "
            "per_device_train_batch_size or gradient_accumulation_steps, or use fewer processes.",
        ),
        (values["long_rows"] == "split" and values["train_on"] == "last", SPLIT_OF_LAST),
        *_optimizer_rules(values),
        *_schedule_rules(values),
    )
    return [*(fault for is_broken, fault in rules if is_broken), *lora_faults(values)]


def _optimizer_rules(values: Mapping[str, Any]) -> tuple[tuple[bool, str], ...]:
    """Return the rules between the optimizer, what shards its state, and what only some optimizers take."""
    optim, momentum = values["optim"], values["momentum"]
    needs = "needs whole matrices" if optim in ("adafactor", "muon") else "is tried with whole weights only"
    adam = [name for name in ("adam_beta1", "adam_beta2", "adam_epsilon") if values[name] != _ADAM_DEFAULTS[name]]
    return (
        (
            values["apply_deepspeed"] and optim not in ADAMW,
            f"apply_deepspeed is 'true' while optim is '{optim}', which {needs}, and DeepSpeed cuts them up. Use adamw_torch.",
        ),
        (
            values["data_parallel_strategy"] == "fsdp" and optim not in ADAMW,
            f"data_parallel_strategy is 'fsdp' while optim is '{optim}', which {needs}. Use adamw_torch, or ddp.",
        ),
        (
            momentum is not None and optim not in ("sgd", "muon"),
            f"momentum is {momentum} while optim is '{optim}'. Use sgd or muon, or leave it out; adam_beta1 is AdamW's.",
        ),
        (
            optim == "sgd" and bool(adam),
            f"{' and '.join(adam)} is given while optim is 'sgd', which has none. Leave it out, or use adamw_torch.",
        ),
    )


_ADAM_DEFAULTS = {parameter.name: parameter.default for parameter in OPTIMIZER}


def _schedule_rules(values: Mapping[str, Any]) -> tuple[tuple[bool, str], ...]:
    """Return the rules between the schedule of the learning rate and what only some schedules take."""
    kind, max_steps, highest = values["lr_scheduler_type"], values["max_steps"], values["learning_rate"]
    decay_steps, warmup_steps = values["num_decay_steps"], values["warmup_steps"]
    min_lr, min_lr_rate = values["min_lr"], values["min_lr_rate"]
    is_wsd, is_bounded = kind in WSD, kind == "cosine_with_min_lr"

    def foreign(name: str, owner: str) -> str:
        return f"{name} is {values[name]} while lr_scheduler_type is '{kind}'. Use {owner}, or leave it out."

    return (
        (
            is_wsd and decay_steps is None,
            f"lr_scheduler_type is '{kind}', which needs num_decay_steps: the last steps, over which the learning rate falls.",
        ),
        (
            is_wsd and 0 < max_steps < warmup_steps + (decay_steps or 0),
            f"warmup_steps {warmup_steps} and num_decay_steps {decay_steps} are more than all {max_steps} of max_steps.",
        ),
        (
            is_bounded and (min_lr is None) == (min_lr_rate is None),
            "lr_scheduler_type is 'cosine_with_min_lr', which needs one of min_lr and min_lr_rate.",
        ),
        (
            is_bounded and min_lr is not None and min_lr > highest,
            f"min_lr is {min_lr:g}, more than learning_rate, {highest:g}." if min_lr is not None else "",
        ),
        (not is_wsd and decay_steps is not None, foreign("num_decay_steps", WSD[0])),
        (not is_wsd and values["lr_decay_type"] != "cosine", foreign("lr_decay_type", WSD[0])),
        (not is_bounded and min_lr is not None, foreign("min_lr", "cosine_with_min_lr")),
        (
            not is_bounded and not is_wsd and min_lr_rate is not None,
            foreign("min_lr_rate", f"cosine_with_min_lr or {WSD[0]}"),
        ),
        (
            kind != "inverse_sqrt" and values["lr_timescale"] is not None,
            foreign("lr_timescale", "inverse_sqrt"),
        ),
    )


def rows_per_step(values: Mapping[str, Any]) -> int:
    """Return the rows of an optimizer step: the effective batch."""
    names = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "num_nodes_finetune",
        "number_of_gpu_to_use_finetuning",
    )
    return math.prod(int(values[name]) for name in names)


def joined_names(name: str, value: Any) -> Any:
    """Return a list or an object as the text that a parameter of such takes; any other value as it is."""
    if name in OBJECTS and isinstance(value, Mapping):
        return json.dumps(dict(value))
    kinds = NAME_LISTS.get(name)
    is_list = kinds is not None and isinstance(value, list | tuple) and all(type(item) in kinds for item in value)
    return ",".join(map(str, value)) if is_list else value
