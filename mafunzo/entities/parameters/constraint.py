"""What must hold between the parameters of a fine-tuning job that are each in their range."""

import math
import re
from collections.abc import Mapping
from typing import Any

ALL_LINEAR = ("all", "all-linear")
"""What LLaMA-Factory and PEFT call all linear layers but the head."""
NAME_LISTS = frozenset({"lora_target_modules"})
"""The parameters that are names with commas between, and may be given as a list."""


def faults_between(values: Mapping[str, Any]) -> list[str]:
    """Return the faults; `values` holds every parameter as its type, with its default where none was given."""
    strategy, interval = values["evaluation_strategy"], values["evaluation_steps_interval"]
    n_processes, step_rows = values["cpu_processes_finetune"], rows_per_step(values)
    max_steps, warmup_steps, targets = values["max_steps"], values["warmup_steps"], values["lora_target_modules"]
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
        (
            targets and not values["apply_lora"],
            "lora_target_modules is given while apply_lora is 'false'. Set apply_lora true, or leave it out.",
        ),
        (
            targets and not split_names(targets),
            f"lora_target_modules is '{targets}', expected names with commas between.",
        ),
        (
            len(split_names(targets)) > 1 and set(ALL_LINEAR) & set(split_names(targets)),
            f"lora_target_modules is '{targets}': all linear layers, and others beside them. Keep one of both.",
        ),
    )
    return [fault for is_broken, fault in rules if is_broken]


def rows_per_step(values: Mapping[str, Any]) -> int:
    """Return the rows of an optimizer step: the effective batch."""
    names = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "num_nodes_finetune",
        "number_of_gpu_to_use_finetuning",
    )
    return math.prod(int(values[name]) for name in names)


def lora_targets(text: str | None) -> tuple[str, ...]:
    """Return the names of the layers that get an adapter; nothing for all linear layers but the head."""
    names = split_names(text)
    return () if set(names) <= set(ALL_LINEAR) else names


def joined_names(name: str, value: Any) -> Any:
    """Return a list of names as the text that a parameter of names takes; any other value as it is."""
    is_list = name in NAME_LISTS and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    return ",".join(value) if is_list else value


def split_names(text: str | None) -> tuple[str, ...]:
    """Return the names in `q_proj,v_proj`, also with spaces or as a list in brackets."""
    return tuple(name for name in re.split(r"[\s,\[\]'\"]+", text or "") if name)
