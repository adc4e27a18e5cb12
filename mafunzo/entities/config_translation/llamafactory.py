"""LLaMA-Factory's YAML for `llamafactory-cli train`.

Keys and defaults are those of its `hparams` (data, fine-tuning and model arguments), beside transformers' `TrainingArguments`.
A data set is a name in `<dataset_dir>/dataset_info.json`, which says what file it is and how its columns are called.
"""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.config_translation import hugging_face as hf
from mafunzo.entities.config_translation.rule import Rule, Tool, drop, off, only, spelled, take
from mafunzo.entities.config_translation.translation import Config, Outcome, changed, dropped, refused, taken

INFO = "dataset_info.json"
KNOWN_COLUMNS = {
    "alpaca": {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "system": "system",
        "history": "history",
    },
    "sharegpt": {"messages": "conversations", "tools": "tools", "system": "system"},
}
"""What each kind of data set calls its columns, where `dataset_info.json` doesn't say otherwise."""
RENAMED = {"messages": {"messages", "conversations"}}
"""Columns that are found by several names here."""
KNOWN_TAGS = (
    {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
    {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
)
FEWER = "train on a file that has those rows only"


def uses_lora(config: Config) -> bool:
    """Return whether adapters are trained."""
    return bool(config.get("finetuning_type") == "lora")


lora = hf.of_adapters(uses_lora)


def _method(value: Any, config: Config) -> Outcome:
    if value in ("lora", "full"):
        return taken(apply_lora=spelled("apply_lora", value == "lora"))
    return refused("expected lora or full", "apply_lora")


def _alpha(value: Any, config: Config) -> Outcome:
    return taken("twice the rank" if value == "2 x lora_rank" else "", lora_alpha=_alpha_of(value, config))


def _alpha_of(value: Any, config: Config) -> Any:
    return 2 * int(config.get("lora_rank")) if value == "2 x lora_rank" else value


def _target(value: Any, config: Config) -> Outcome:
    return taken(lora_target_modules=spelled("lora_target_modules", value))


def _pissa(value: Any, config: Config) -> Outcome:
    if not value:
        return dropped("asks for nothing")
    rounds = int(config.get("pissa_iter"))
    return taken(init_lora_weights="pissa" if rounds < 0 else f"pissa_niter_{rounds}")


def _data(target: str) -> Rule:
    """Return the rule for the names of data sets, which become the file of `target`."""

    def rule(value: Any, config: Config) -> Outcome:
        names = value if isinstance(value, list) else [name.strip() for name in str(value).split(",")]
        if len(names) > 1:
            return refused(f"{len(names)} data sets are mixed: write them into one file", target)
        folder = str(config.get("dataset_dir"))
        info = (config.files.read(f"{folder}/{INFO}") or {}).get(names[0])
        if not isinstance(info, Mapping):
            return refused(f"{folder}/{INFO} has no file for it: pass --{target} FILE", target)
        if fault := _info_fault(info):
            return refused(f"{fault}: pass --{target} FILE", target)
        return taken(f"by {folder}/{INFO}", **{target: f"{folder}/{info['file_name']}"})

    return rule


def _info_fault(info: Mapping[str, Any]) -> str:
    """Return why an entry of `dataset_info.json` can't be read as it is; empty where it can."""
    if "file_name" not in info:
        return "it is fetched from a hub"
    if info.get("ranking"):
        return "it has preferences, which a fine-tuning doesn't read"
    kind = info.get("formatting", "alpaca")
    if kind not in KNOWN_COLUMNS:
        return f"formatting is {kind}, expected alpaca or sharegpt"
    columns = KNOWN_COLUMNS[kind]
    for column, name in (info.get("columns") or {}).items():
        if column not in columns:
            return f"its column {column} isn't read here"
        if name not in RENAMED.get(column, {columns[column]}):
            return f"it calls {column} {name}: rename the column to {columns[column]}"
    tags = info.get("tags") or {}
    if tags and not any(all(tags.get(tag, word) == word for tag, word in known.items()) for known in KNOWN_TAGS):
        return "its tags are neither from/value with human and gpt nor role/content with user and assistant"
    return ""


def _packing(value: Any, config: Config) -> Outcome:
    if not value or config.get("neat_packing"):
        return hf.packs_rows("per_device_train_batch_size")(value, config)
    return refused("rows of one sequence would see one another. Rows never do here, as with neat_packing: true")


RULES: dict[str, Rule] = {
    **hf.RULES,
    "do_train": only(True, reason="a fine-tuning trains"),
    "stage": only("sft", reason="`mafunzo finetune` is supervised fine-tuning (sft)"),
    "finetuning_type": _method,
    "model_name_or_path": hf.named("model"),
    "adapter_name_or_path": off("a fine-tuning starts from a whole model: merge the adapter first"),
    "model_revision": only("main", reason="name the revision where the model is imported: `mafunzo model import`"),
    "lora_rank": lora(hf.named("lora_r")),
    "lora_alpha": lora(_alpha),
    "lora_dropout": lora(hf.named("lora_dropout")),
    "lora_target": lora(_target),
    "loraplus_lr_ratio": lora(take("loraplus_lr_ratio")),
    "loraplus_lr_embedding": drop("it is about loraplus_lr_ratio"),
    "use_rslora": lora(take("use_rslora")),
    "use_dora": lora(take("use_dora")),
    "pissa_init": lora(_pissa),
    "pissa_iter": drop("said at pissa_init"),
    "pissa_convert": drop("a plain adapter is saved in any case"),
    "additional_target": lora(off("only adapters are trained beside frozen weights")),
    "create_new_adapter": drop("a new adapter is trained"),
    "freeze_trainable_layers": drop("it is about finetuning_type: freeze"),
    "quantization_bit": off("bases aren't quantized here"),
    "quantization_method": drop("it is about quantization_bit"),
    "double_quantization": drop("it is about quantization_bit"),
    "dataset": _data("train"),
    "eval_dataset": _data("validation"),
    "dataset_dir": drop("said at dataset"),
    "template": lambda value, config: changed("rows are rendered by the model's own chat template"),
    "tool_format": lambda value, config: changed("tools are rendered by the model's own chat template"),
    "default_system": off("write the system message into the rows"),
    "enable_thinking": lambda value, config: changed("reasoning is rendered as the model's own chat template has it"),
    "cutoff_len": hf.named("max_seq_length"),
    "max_samples": off(FEWER),
    "train_on_prompt": hf.learns("everything", "asks for nothing"),
    "mask_history": hf.learns("last", "asks for nothing"),
    "val_size": hf.validation_share("dataset"),
    "packing": _packing,
    "neat_packing": drop("said at packing"),
    "streaming": off("data is read as files"),
    "mix_strategy": only("concat", reason="write the data sets into one file"),
    "interleave_probs": off("write the data sets into one file"),
    "ignore_pad_token_for_loss": only(True, reason="padding is never learned"),
    "overwrite_cache": drop("the cache goes by content"),
    "preprocessing_batch_size": hf.named("batch_size"),
    "preprocessing_num_workers": drop(hf.SAME_RUN),
    "tokenized_path": drop("tokens are cached by content"),
    "eval_on_each_dataset": off("there is one validation set"),
    "pure_bf16": hf.bits,
    "plot_loss": drop("the learning curve is always drawn"),
    "disable_gradient_checkpointing": drop("layers are computed again as the memory plan needs"),
    "upcast_layernorm": drop("weights are float32"),
    "upcast_lmhead_output": drop("the loss is computed in float32"),
    "flash_attn": drop(hf.SPEED),
    "enable_liger_kernel": drop(hf.SPEED),
    "use_unsloth": drop(hf.SPEED),
    "use_unsloth_gc": drop(hf.SPEED),
    "shift_attn": off("attention has no shifted groups here"),
    "rope_scaling": off("positions are the model's own"),
    "resize_vocab": off("the vocabulary is the model's own"),
    "add_tokens": off("the vocabulary is the model's own"),
    "add_special_tokens": off("the vocabulary is the model's own"),
    "use_fast_tokenizer": drop("the tokenizer is the fast one"),
    "low_cpu_mem_usage": drop(hf.SAME_RUN),
    "cache_dir": drop("models are stored in the home by content"),
    "hf_hub_token": drop("HF_TOKEN names the token"),
    "use_galore": off("the optimizer has no projections here"),
    "use_apollo": off("the optimizer has no projections here"),
    "use_badam": off("all trained weights are updated in each step"),
    "use_llama_pro": off("no layers are added"),
    "use_dft_loss": off("the loss is cross-entropy"),
    "compute_accuracy": drop(hf.TRACKED),
}

PREFIXES: dict[str, Rule] = {
    **hf.PREFIXES,
    "swanlab_": drop(hf.TRACKED),
    "use_swanlab": drop(hf.TRACKED),
    "galore_": drop("it is about use_galore"),
    "apollo_": drop("it is about use_apollo"),
    "badam_": drop("it is about use_badam"),
    "pref_": drop("it is about stage: dpo"),
    "ray_": drop("compute_finetune names where training runs"),
}

DEFAULTS: dict[str, Any] = {
    **hf.DEFAULTS,
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_alpha": "2 x lora_rank",
    "lora_target": "all",
    "pissa_iter": 16,
    "cutoff_len": 2048,
    "dataset_dir": "data",
}

TOOL = Tool("LLaMA-Factory", RULES, PREFIXES, lambda body: DEFAULTS)
