"""What must hold between the parameters of a fine-tuning job that are each in their range."""

import re
from collections.abc import Mapping
from typing import Any


def faults_between(values: Mapping[str, Any]) -> list[str]:
    """Return the faults; `values` holds every parameter as its declared type, with its default where none was given."""
    faults = []
    if values["apply_early_stopping"] == "true" and values["evaluation_strategy"] == "disable":
        faults.append(
            "apply_early_stopping is 'true' while evaluation_strategy is 'disable': there is no validation loss to stop by. "
            "Use epoch or steps."
        )
    if values["evaluation_steps_interval"] > 0 and values["evaluation_strategy"] != "steps":
        faults.append(
            f"evaluation_steps_interval is {values['evaluation_steps_interval']} while evaluation_strategy is "
            f"'{values['evaluation_strategy']}'. Use evaluation_strategy steps."
        )
    if values["max_steps"] == 0:
        faults.append("max_steps is 0, expected 1 or more, or -1 to train for num_train_epochs.")
    if values["save_total_limit"] == 0:
        faults.append("save_total_limit is 0, expected 1 or more, or -1 to keep all checkpoints.")
    if values["max_seq_length"] == 0:
        faults.append("max_seq_length is 0, expected 1 or more, or -1 for the longest that the model takes.")
    if values["warmup_steps"] > 0 and values["warmup_ratio"] > 0:
        faults.append("warmup_steps and warmup_ratio are both given. Leave one of them out.")
    if 0 < values["max_steps"] < values["warmup_steps"]:
        faults.append(f"warmup_steps is {values['warmup_steps']}, more than all {values['max_steps']} of max_steps.")
    if values["apply_deepspeed"] == "true" and values["auto_find_batch_size"] == "true":
        faults.append(
            "apply_deepspeed and auto_find_batch_size are both 'true', which DeepSpeed can't do. Set one to false."
        )
    if values["lora_target_modules"] and values["apply_lora"] != "true":
        faults.append("lora_target_modules is given while apply_lora is 'false'. Set apply_lora true, or leave it out.")
    if values["lora_target_modules"] and not split_names(values["lora_target_modules"]):
        faults.append(f"lora_target_modules is '{values['lora_target_modules']}', expected names with commas between.")
    return faults


def split_names(text: str | None) -> tuple[str, ...]:
    """Return the names in `q_proj,v_proj`, also with spaces or as a list in brackets."""
    return tuple(name for name in re.split(r"[\s,\[\]'\"]+", text or "") if name)
