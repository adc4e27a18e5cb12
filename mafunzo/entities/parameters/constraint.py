"""What must hold between the parameters of a fine-tuning job that are each in their range."""

import json
import math
from collections.abc import Mapping
from typing import Any

from mafunzo.entities.parameters.lora import lora_faults

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
            values["apply_deepspeed"] and values["optim"] == "adafactor",
            "apply_deepspeed is 'true' while optim is 'adafactor', which needs whole matrices, and DeepSpeed cuts them up. Use "
            "adamw_torch.",
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
            is_fsdp and values["optim"] == "adafactor",
            "data_parallel_strategy is 'fsdp' while optim is 'adafactor', which needs whole matrices. Use adamw_torch, or ddp.",
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
    )
    return [*(fault for is_broken, fault in rules if is_broken), *lora_faults(values)]


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
