"""Axolotl's YAML for `axolotl train`.

Keys and defaults are those of its schemas (`utils/schemas`) and of what its trainer makes of them (`core/builders`).
"""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.config_translation import hugging_face as hf
from mafunzo.entities.config_translation.rule import Rule, Tool, drop, off, only, spelled, take
from mafunzo.entities.config_translation.translation import Config, Outcome, changed, dropped, refused, taken

KNOWN_TYPES = ("chat_template", "alpaca", "sharegpt", "alpaca_chat.load_qa", "chat_template.default")
KNOWN_MESSAGES = ({"role": "role", "content": "content"}, {"role": "from", "content": "value"})
KNOWN_ROLES = {"user": {"user", "human"}, "assistant": {"assistant", "gpt"}, "system": {"system"}, "tool": {"tool"}}
DATASET_KEYS = {
    "path", "type", "ds_type", "data_files", "split", "name", "field_messages", "field_tools", "message_property_mappings",
    "message_field_role", "message_field_content", "message_field_training", "roles", "roles_to_train", "train_on_eos",
    "chat_template", "trust_remote_code", "revision",
}  # fmt: skip
WARMUP_SHARE = 0.03
"""The share of all steps over which it warms up where a file doesn't say, 100 steps at most."""


def _uses_lora(config: Config) -> bool:
    return bool(config.get("adapter") == "lora")


_lora = hf.of_adapters(_uses_lora)


def _adapter(value: Any, config: Config) -> Outcome:
    if value == "lora":
        return taken(apply_lora="true")
    if value == "none":
        return taken("no adapter: all weights are trained", apply_lora="false")
    return refused("bases aren't quantized here: adapter: lora trains the same adapters on 16 or 32 bits", "apply_lora")


def _all_linear(value: Any, config: Config) -> Outcome:
    return taken(lora_target_modules="all") if value else dropped("asks for nothing")


def _data(target: str) -> Rule:
    """Return the rule for a list of data sets, of which there has to be one, a file here."""

    def rule(value: Any, config: Config) -> Outcome:
        if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], Mapping):
            return refused(
                f"expected a list of one data set: write them into one file, and pass --{target} FILE", target
            )
        file, fault = _file(value[0], config)
        if fault := fault or _rows_fault(value[0]):
            return refused(f"{fault}: pass --{target} FILE", target)
        return taken(**{target: file})

    return rule


def _file(dataset: Mapping[str, Any], config: Config) -> tuple[str, str]:
    """Return the file of a data set, and why there is none."""
    files = dataset.get("data_files") or dataset.get("path")
    files = files[0] if isinstance(files, list) and len(files) == 1 else files
    if not isinstance(files, str):
        return "", "it has several files"
    return files, "" if config.files.exists(files) else f"{files} is no file here, and a hub's data isn't fetched"


def _rows_fault(dataset: Mapping[str, Any]) -> str:
    """Return what of a data set's description can't be honoured; empty where all can."""
    given = {key: value for key, value in dataset.items() if value is not None}
    if unknown := sorted(given.keys() - DATASET_KEYS):
        return f"{', '.join(unknown)} can't be honoured"
    if given.get("type", "chat_template") not in KNOWN_TYPES:
        return f"type is {given['type']}, expected {', '.join(KNOWN_TYPES[:3])}"
    names = given.get("message_property_mappings") or {
        "role": given.get("message_field_role", "role"),
        "content": given.get("message_field_content", "content"),
    }
    if names not in KNOWN_MESSAGES:
        return "its messages have neither role and content nor from and value"
    if given.get("field_messages", "messages") not in ("messages", "conversations"):
        return f"its column {given['field_messages']} is to be called messages"
    if given.get("field_tools", "tools") != "tools":
        return f"its column {given['field_tools']} is to be called tools"
    for role, words in (given.get("roles") or {}).items():
        if set(words) - KNOWN_ROLES.get(role, set()):
            return f"roles: {role} has other names than are read here"
    if given.get("roles_to_train", ["assistant"]) not in (["assistant"], ["gpt"]):
        return "only the assistant's turns are learned"
    if given.get("train_on_eos", "turn") != "turn":
        return "the end of each of the assistant's turns is learned (train_on_eos: turn)"
    if given.get("split", "train") != "train":
        return f"split is {given['split']}"
    return ""


def _template(value: Any, config: Config) -> Outcome:
    if value == "tokenizer_default":
        return taken("the model's own")
    return changed("rows are rendered by the model's own chat template")


def _evaluations_per_epoch(value: Any, config: Config) -> Outcome:
    if not value:
        return taken(evaluation_strategy="disable")
    return changed(hf.BEST, evaluation_strategy="steps", evaluation_steps_interval=round(1 / float(value), 6))


def _evaluation_strategy(value: Any, config: Config) -> Outcome:
    if config.body.get("evals_per_epoch") or config.body.get("eval_steps"):
        return dropped("evals_per_epoch or eval_steps decides")
    return hf.evaluations(value, config)


def _evaluation_steps(value: Any, config: Config) -> Outcome:
    if not value:
        return dropped("asks for nothing")
    if isinstance(value, float) and value < 1:
        return refused("a share of the run isn't known here: give steps", "eval_steps")
    return changed(hf.BEST, evaluation_strategy="steps", eval_steps=value)


def _warmup(value: Any, config: Config) -> Outcome:
    if config.body.get("warmup_steps"):
        return dropped("warmup_steps decides")
    if "warmup_ratio" in config.body:
        return taken(warmup_ratio=value)
    return changed("it ends there after 100 steps at the latest", warmup_ratio=value)


def _special_tokens(value: Any, config: Config) -> Outcome:
    return refused("special tokens are the model's own: finetune_config_path has a file for others")


RULES: dict[str, Rule] = {
    "base_model": hf.named("model"),
    "base_model_config": drop("the model has its own"),
    "model_type": drop("the model's configuration says it"),
    "tokenizer_type": drop("the model's configuration says it"),
    "tokenizer_config": off("the tokenizer is the model's own"),
    "is_llama_derived_model": drop("the model's configuration says it"),
    "trust_remote_code": take("trust_remote_code"),
    "revision_of_model": off("name the revision where the model is imported: `mafunzo model import`"),
    "load_in_8bit": off("bases aren't quantized here"),
    "load_in_4bit": off("bases aren't quantized here"),
    "gptq": off("bases aren't quantized here"),
    "strict": drop("every key is checked"),
    "adapter": _adapter,
    "lora_model_dir": off("a fine-tuning starts from a whole model: merge the adapter first"),
    "lora_r": _lora(take("lora_r")),
    "lora_alpha": _lora(take("lora_alpha")),
    "lora_dropout": _lora(take("lora_dropout")),
    "lora_target_modules": _lora(
        lambda value, config: taken(lora_target_modules=spelled("lora_target_modules", value))
    ),
    "lora_target_linear": _lora(_all_linear),
    "lora_target_parameters": _lora(off("adapters are of linear layers")),
    "lora_fan_in_fan_out": _lora(off("it follows from the layers")),
    "lora_modules_to_save": _lora(off("only adapters are trained beside frozen weights")),
    "lora_on_cpu": drop(hf.SAME_RUN),
    "loraplus_lr_ratio": _lora(take("loraplus_lr_ratio")),
    "loraplus_lr_embedding": drop("it is about loraplus_lr_ratio"),
    "peft_use_dora": _lora(hf.named("use_dora")),
    "peft_use_rslora": _lora(hf.named("use_rslora")),
    "peft_init_lora_weights": _lora(hf.named("init_lora_weights")),
    "peft_layers_to_transform": _lora(hf.named("layers_to_transform")),
    "peft_layers_pattern": _lora(hf.named("layers_pattern")),
    "merge_lora": lambda value, config: taken(merge_lora_weights=spelled("merge_lora_weights", value)),
    "relora": off("adapters aren't restarted"),
    "datasets": _data("train"),
    "test_datasets": _data("validation"),
    "dataset_prepared_path": drop("tokens are cached by content"),
    "dataset_processes": drop(hf.SAME_RUN),
    "dataset_num_proc": drop(hf.SAME_RUN),
    "shuffle_merged_datasets": drop("the order of rows is drawn by the seed in each epoch"),
    "dataset_exact_deduplication": off("`mafunzo data check` counts equal rows: remove them from the file"),
    "val_set_size": hf.validation_share("datasets"),
    "chat_template": _template,
    "chat_template_jinja": off("finetune_config_path has a file with a chat template of one's own"),
    "default_system_message": off("write the system message into the rows"),
    "sequence_len": hf.named("max_seq_length"),
    "sample_packing": hf.packs_rows("micro_batch_size"),
    "eval_sample_packing": drop("validation's loss is the same packed or not"),
    "pad_to_sequence_len": drop("nothing is padded, and nothing padded is learned"),
    "sample_packing_sequentially": drop("said at sample_packing"),
    "multipack_real_batches": drop("said at sample_packing"),
    "flash_attn_fuse_qkv": drop(hf.SPEED),
    "flash_attn_fuse_mlp": drop(hf.SPEED),
    "group_by_length": hf.RULES["group_by_length"],
    "train_on_inputs": hf.learns("everything", "only the assistant's turns are learned"),
    "micro_batch_size": hf.named("per_device_train_batch_size"),
    "eval_batch_size": hf.named("per_device_eval_batch_size"),
    "batch_size": off("give gradient_accumulation_steps: batch_size / micro_batch_size"),
    "gradient_accumulation_steps": take("gradient_accumulation_steps"),
    "auto_find_batch_size": take("auto_find_batch_size"),
    "num_epochs": hf.named("num_train_epochs"),
    "max_steps": take("max_steps"),
    "optimizer": hf.optimizer,
    "optim_args": off("arguments of optimizers aren't known here"),
    "learning_rate": take("learning_rate"),
    "embedding_lr": off("all trained weights have one learning rate"),
    "lr_scheduler": hf.scheduler,
    **{key: rule for key, rule in hf.RULES.items() if key.startswith("lr_scheduler_kwargs")},
    "cosine_min_lr_ratio": off("the cosine ends at 0 here"),
    "cosine_constant_lr_ratio": off("the cosine ends at 0 here"),
    "warmup_steps": lambda value, config: hf.warmup(value, config) if value else dropped("asks for nothing"),
    "warmup_ratio": _warmup,
    "weight_decay": take("weight_decay"),
    "max_grad_norm": take("max_grad_norm"),
    "adam_beta1": take("adam_beta1"),
    "adam_beta2": take("adam_beta2"),
    "adam_epsilon": take("adam_epsilon"),
    "noisy_embedding_alpha": hf.named("neftune_noise_alpha"),
    "neftune_noise_alpha": take("neftune_noise_alpha"),
    "bf16": hf.bits,
    "fp16": hf.bits,
    "bfloat16": hf.bits,
    "float16": hf.bits,
    "tf32": drop(hf.SPEED),
    "gradient_checkpointing": lambda value, config: taken(
        gradient_checkpointing=spelled("gradient_checkpointing", bool(value))
    ),
    "gradient_checkpointing_kwargs": drop(hf.SAME_RUN),
    "activation_offloading": drop("layers are computed again as the memory plan needs"),
    "early_stopping_patience": hf.early,
    "resume_from_checkpoint": off("`mafunzo job resume` goes on from a job's checkpoint"),
    "auto_resume_from_checkpoints": drop("a step that is tried again goes on from its checkpoint"),
    "evals_per_epoch": _evaluations_per_epoch,
    "eval_steps": _evaluation_steps,
    "eval_strategy": _evaluation_strategy,
    "eval_table_size": drop("samples of base and tuned model are shown after training"),
    "eval_max_new_tokens": drop("it is about eval_table_size"),
    "eval_causal_lm_metrics": drop("base and tuned model are always compared"),
    "saves_per_epoch": hf.RULES["save_steps"],
    "save_steps": hf.RULES["save_steps"],
    "save_strategy": hf.RULES["save_steps"],
    "save_first_step": hf.RULES["save_steps"],
    "save_total_limit": take("save_total_limit"),
    "save_safetensors": drop("weights are safetensors"),
    "logging_steps": take("logging_steps"),
    "output_dir": hf.RULES["output_dir"],
    "seed": take("seed"),
    "deepspeed": hf.deepspeed,
    "fsdp": hf.RULES["fsdp"],
    "special_tokens.pad_token": drop("nothing is padded"),
    "debug": drop(hf.SAME_RUN),
    "local_rank": drop(hf.SAME_RUN),
    "ddp_timeout": drop(hf.SAME_RUN),
    "device_map": drop(hf.SAME_RUN),
    "loss_watchdog_threshold": drop("a run whose loss keeps rising is told, and its best checkpoint kept"),
    "loss_watchdog_patience": drop("a run whose loss keeps rising is told, and its best checkpoint kept"),
    "use_tensorboard": drop(hf.TRACKED),
    "use_mlflow": drop(hf.TRACKED),
    "use_wandb": drop(hf.TRACKED),
    "flash_attention": drop(hf.SPEED),
    "xformers_attention": drop(hf.SPEED),
    "sdp_attention": drop(hf.SPEED),
    "eager_attention": drop(hf.SPEED),
    "flex_attention": drop(hf.SPEED),
    "attn_implementation": drop(hf.SPEED),
    "s2_attention": off("attention has no shifted groups here"),
    "torch_compile": drop(hf.SPEED),
    "lora_mlp_kernel": drop(hf.SPEED),
    "lora_qkv_kernel": drop(hf.SPEED),
    "lora_o_kernel": drop(hf.SPEED),
    "unfrozen_parameters": only([], reason="all weights are trained, or adapters"),
    "rl": off("`mafunzo finetune` is supervised fine-tuning"),
    "plugins": only([], reason="plugins of Axolotl can't run here"),
}

PREFIXES: dict[str, Rule] = {
    "wandb_": drop(hf.TRACKED),
    "mlflow_": drop(hf.TRACKED),
    "comet_": drop(hf.TRACKED),
    "hub_": drop("nothing is uploaded: `mafunzo model export` writes a folder"),
    "special_tokens.": _special_tokens,
    "fsdp_config": only({}, reason="data_parallel_strategy=fsdp takes no settings"),
    "liger_": drop(hf.SPEED),
    "unsloth_": drop(hf.SPEED),
    "relora_": drop("it is about relora"),
}

DEFAULTS: dict[str, Any] = {
    "adapter": "none",
    "micro_batch_size": 1,
    "optimizer": "adamw_torch_fused",
    "lr_scheduler": "cosine",
    "warmup_ratio": WARMUP_SHARE,
    "sequence_len": 512,
    "num_epochs": 1.0,
    "eval_strategy": "no",
}
"""What Axolotl takes for what a file doesn't say, where that isn't what Mafunzo takes."""

TOOL = Tool("Axolotl", RULES, PREFIXES, lambda body: DEFAULTS)
