"""torchtune's YAML for `tune run lora_finetune_single_device --config FILE`, and its kin.

Nested keys have dots (`model.lora_rank`). A `_component_` names the Python function that the other keys beside it are for.
"""

from typing import Any

from mafunzo.entities.config_translation import hugging_face as hf
from mafunzo.entities.config_translation.rule import Rule, Tool, drop, off, only, spelled, take
from mafunzo.entities.config_translation.translation import Config, Outcome, changed, refused, taken

LAYERS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "output_proj": "o_proj"}
"""What torchtune calls the layers of attention, and what they are called in Hugging Face's models."""
MLP = ("gate_proj", "up_proj", "down_proj")
SCHEDULES = {"get_cosine_schedule_with_warmup": "cosine", "get_linear_schedule_with_warmup": "linear"}
CHAT_DATASETS = ("chat_dataset", "instruct_dataset")
BUILT_IN = "a data set that torchtune fetches"


def _component(value: Any) -> str:
    return str(value).rpartition(".")[2]


def _uses_lora(config: Config) -> bool:
    return "lora_" in _component(config.get("model._component_") or "")


_lora = hf.of_adapters(_uses_lora)


def _model(value: Any, config: Config) -> Outcome:
    name = _component(value)
    if name.startswith(("qlora_", "qdora_")):
        return refused(f"{name.partition('_')[0]} isn't trained here: lora_{name.partition('_')[2]} is", "apply_lora")
    return taken(apply_lora=spelled("apply_lora", _uses_lora(config)))


def _layers(value: Any, config: Config) -> Outcome:
    if unknown := [name for name in value if name not in LAYERS]:
        return refused(f"{', '.join(unknown)}: expected {', '.join(LAYERS)}", "lora_target_modules")
    names = [LAYERS[name] for name in value] + (list(MLP) if config.get("model.apply_lora_to_mlp") else [])
    return taken(lora_target_modules=",".join(names))


def _data(target: str, key: str) -> Rule:
    """Return the rule for the function of a data set, whose file is beside it in `data_files`."""

    def rule(value: Any, config: Config) -> Outcome:
        name, files = _component(value), config.get(f"{key}.data_files") or config.get(f"{key}.source")
        if name not in CHAT_DATASETS or not isinstance(files, str) or not config.files.exists(files):
            return refused(f"{name} is {BUILT_IN}, or its file isn't here: pass --{target} FILE", target)
        return taken(**{target: files})

    return rule


def _steps(value: Any, config: Config) -> Outcome:
    return taken("times epochs", max_steps=int(value) * int(config.get("epochs")))


def _optimizer(value: Any, config: Config) -> Outcome:
    names = {"AdamW": "adamw_torch", "Adafactor": "adafactor", "SGD": "sgd", "PagedAdamW": "paged_adamw_32bit"}
    return hf.optimizer(names.get(_component(value), _component(value)), config)


def _scheduler(value: Any, config: Config) -> Outcome:
    if value == "none":
        return taken("no schedule", lr_scheduler_type="constant")
    if (name := _component(value)) in SCHEDULES:
        return taken(lr_scheduler_type=SCHEDULES[name])
    return refused(f"expected {' or '.join(SCHEDULES)}", "lr_scheduler_type")


def _clip(value: Any, config: Config) -> Outcome:
    return taken("no limit", max_grad_norm=0) if value == "none" else taken(max_grad_norm=value)


def _betas(value: Any, config: Config) -> Outcome:
    return taken(adam_beta1=value[0], adam_beta2=value[1])


RULES: dict[str, Rule] = {
    "model._component_": _model,
    "model.lora_attn_modules": _lora(_layers),
    "model.apply_lora_to_mlp": _lora(drop("said at model.lora_attn_modules")),
    "model.apply_lora_to_output": _lora(off("the head gets no adapter")),
    "model.lora_rank": _lora(hf.named("lora_r")),
    "model.lora_alpha": _lora(hf.named("lora_alpha")),
    "model.lora_dropout": _lora(hf.named("lora_dropout")),
    "model.quantize_base": _lora(off("bases aren't quantized here")),
    "model.use_dora": _lora(hf.named("use_dora")),
    "checkpointer._component_": drop("what a folder holds is found out"),
    "checkpointer.checkpoint_dir": hf.named("model"),
    "checkpointer.checkpoint_files": drop("all files of the model are read"),
    "checkpointer.adapter_checkpoint": off("a fine-tuning starts from a whole model: merge the adapter first"),
    "checkpointer.recipe_checkpoint": drop("it is about resume_from_checkpoint"),
    "checkpointer.output_dir": hf.RULES["output_dir"],
    "checkpointer.model_type": drop("the model's configuration says it"),
    "checkpointer.safe_serialization": drop("weights are safetensors"),
    "tokenizer.max_seq_len": hf.named("max_seq_length"),
    "tokenizer.prompt_template": off("rows are rendered by the model's own chat template"),
    "dataset._component_": _data("train", "dataset"),
    "dataset.packed": hf.packs_rows("batch_size"),
    "dataset.train_on_input": hf.learns("everything", "only replies are learned"),
    "dataset.new_system_prompt": off("write the system message into the rows"),
    "dataset.column_map": only({}, reason="columns are found by their names: rename them in the file"),
    "dataset.conversation_column": only("messages", "conversations", reason="the column is to be called messages"),
    "dataset.conversation_style": only("sharegpt", "openai", reason="expected sharegpt or openai"),
    "dataset.split": only("train", reason="pass --train FILE"),
    "dataset_val._component_": _data("validation", "dataset_val"),
    "seed": take("seed"),
    "shuffle": only(True, reason="the order of rows is drawn by the seed in each epoch"),
    "batch_size": hf.named("per_device_train_batch_size"),
    "batch_size_val": hf.named("per_device_eval_batch_size"),
    "epochs": hf.named("num_train_epochs"),
    "max_steps_per_epoch": _steps,
    "gradient_accumulation_steps": take("gradient_accumulation_steps"),
    "optimizer._component_": _optimizer,
    "optimizer.lr": hf.named("learning_rate"),
    "optimizer.weight_decay": hf.named("weight_decay"),
    "optimizer.betas": _betas,
    "optimizer.eps": hf.named("adam_epsilon"),
    "optimizer.momentum": hf.named("momentum"),
    "optimizer.fused": drop("the same update by another kernel"),
    "optimizer_in_bwd": drop("it saves memory, and changes no result"),
    "lr_scheduler._component_": _scheduler,
    "lr_scheduler.num_warmup_steps": hf.named("warmup_steps"),
    "lr_scheduler.num_cycles": only(0.5, reason="the cosine has half a cycle"),
    "clip_grad_norm": _clip,
    "dtype": hf.bits,
    "run_val_every_n_steps": lambda value, config: changed(hf.BEST, evaluation_strategy="steps", eval_steps=value),
    "enable_activation_checkpointing": lambda value, config: taken(
        gradient_checkpointing=spelled("gradient_checkpointing", bool(value))
    ),
    "enable_activation_offloading": drop("layers are computed again as the memory plan needs"),
    "resume_from_checkpoint": off("`mafunzo job resume` goes on from a job's checkpoint"),
    "save_adapter_weights_only": lambda value, config: taken(
        merge_lora_weights=spelled("merge_lora_weights", not value)
    ),
    "output_dir": hf.RULES["output_dir"],
    "device": drop("the machine that is here computes"),
    "compile": drop(hf.SPEED),
    "custom_sharded_layers": drop(hf.SAME_RUN),
    "fsdp_cpu_offload": drop(hf.SAME_RUN),
    "log_every_n_steps": hf.named("logging_steps"),
    "log_peak_memory_stats": drop(hf.TRACKED),
    "log_level": drop(hf.TRACKED),
    "use_kd": off("nothing is distilled here"),
}

PREFIXES: dict[str, Rule] = {
    "tokenizer.": drop("the tokenizer is the model's own"),
    "dataset.data_files": drop("said at dataset._component_"),
    "dataset.source": drop("said at dataset._component_"),
    "dataset_val.data_files": drop("said at dataset_val._component_"),
    "dataset_val.source": drop("said at dataset_val._component_"),
    "dataset_val.": drop("rows of validation are read as those of training"),
    "loss.": drop("the loss is cross-entropy, however it is cut"),
    "profiler.": drop(hf.SAME_RUN),
    "metric_logger.": drop(hf.TRACKED),
}

DEFAULTS: dict[str, Any] = {
    "model.lora_dropout": 0.0,
    "epochs": 1,
    "clip_grad_norm": "none",
    "lr_scheduler._component_": "none",
    "run_val_every_n_steps": None,
}
"""What torchtune's recipes take for what a file doesn't say, where that isn't what Mafunzo takes."""

TOOL = Tool("torchtune", RULES, PREFIXES, lambda body: DEFAULTS)
