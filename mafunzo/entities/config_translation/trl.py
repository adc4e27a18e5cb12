"""TRL's YAML for `trl sft --config FILE`: the fields of its `SFTConfig`, `ModelConfig` and `ScriptArguments`."""

from typing import Any

from mafunzo.entities.config_translation import hugging_face as hf
from mafunzo.entities.config_translation.rule import Rule, Tool, drop, off, only, spelled, take
from mafunzo.entities.config_translation.translation import Config, Outcome, dropped, refused, taken

PEFT_PICKS = "picked by peft"


_lora = hf.of_adapters(lambda config: bool(config.get("use_peft")))


def _target(value: Any, config: Config) -> Outcome:
    if value == PEFT_PICKS:
        return refused(
            "peft picks layers by the architecture, mostly queries and values: name them", "lora_target_modules"
        )
    names = value[0] if isinstance(value, list) and len(value) == 1 else value
    return taken(lora_target_modules=spelled("lora_target_modules", names))


def _data(value: Any, config: Config) -> Outcome:
    if config.files.exists(str(value)):
        return taken(train=value)
    return refused("no file or folder here, and a hub's data isn't fetched: pass --train FILE", "train")


def _packing(value: Any, config: Config) -> Outcome:
    if value and config.get("packing_strategy") == "wrapped":
        return refused(
            "rows are cut and joined where a sequence is full (packing_strategy: wrapped). Rows stay whole here"
        )
    return hf.packs_rows("per_device_train_batch_size")(value, config)


def _learned(value: Any, config: Config) -> Outcome:
    if value or config.get("completion_only_loss"):
        return dropped("only the assistant's turns are learned")
    if config.get("completion_only_loss") is False:
        return taken(train_on="everything")
    return refused(
        "TRL learns every token of rows with messages, and only completions of rows with prompt and completion: pass "
        "train_on=everything or train_on=assistant",
        "train_on",
    )


def _completions(value: Any, config: Config) -> Outcome:
    return dropped("only completions are learned" if value else "said at assistant_only_loss")


RULES: dict[str, Rule] = {
    **hf.RULES,
    "model_name_or_path": hf.named("model"),
    "model_revision": only("main", reason="name the revision where the model is imported: `mafunzo model import`"),
    "dtype": lambda value, config: dropped("weights are float32 while they are trained"),
    "torch_dtype": lambda value, config: dropped("weights are float32 while they are trained"),
    "attn_implementation": drop(hf.SPEED),
    "model_init_kwargs": only({}, reason="the model is loaded as its configuration says"),
    "use_peft": lambda value, config: taken(apply_lora=spelled("apply_lora", bool(value))),
    "lora_r": _lora(take("lora_r")),
    "lora_alpha": _lora(take("lora_alpha")),
    "lora_dropout": _lora(take("lora_dropout")),
    "lora_target_modules": _lora(_target),
    "lora_target_parameters": _lora(off("adapters are of linear layers")),
    "lora_modules_to_save": _lora(off("only adapters are trained beside frozen weights")),
    "lora_task_type": only("CAUSAL_LM", reason="chat models are causal language models"),
    "use_rslora": _lora(take("use_rslora")),
    "use_dora": _lora(take("use_dora")),
    "load_in_8bit": off("bases aren't quantized here"),
    "load_in_4bit": off("bases aren't quantized here"),
    "dataset_name": _data,
    "dataset_config": off("a data set is a file or folder here"),
    "dataset_train_split": only("train", reason="pass --train FILE"),
    "dataset_test_split": drop("pass --validation FILE, else rows of --train are cut off for it"),
    "dataset_streaming": drop("data is read as files"),
    "dataset_num_proc": drop(hf.SAME_RUN),
    "dataset_text_field": drop("columns are found by their names"),
    "dataset_kwargs": only({}, reason="rows are prepared in one way here"),
    "max_length": hf.named("max_seq_length"),
    "max_seq_length": take("max_seq_length"),
    "truncation_mode": only("keep_start", reason="rows are cut at their end"),
    "packing": _packing,
    "packing_strategy": drop("said at packing"),
    "eval_packing": drop("validation's loss is the same packed or not"),
    "padding_free": drop("nothing is ever padded"),
    "pad_to_multiple_of": drop("nothing is ever padded"),
    "pad_token": drop("nothing is ever padded"),
    "assistant_only_loss": _learned,
    "completion_only_loss": _completions,
    "loss_type": only("nll", "chunked_nll", reason="the loss is cross-entropy"),
    "activation_offloading": drop("layers are computed again as the memory plan needs"),
    "chat_template_path": off("finetune_config_path has a file with a chat template of one's own"),
    "eos_token": off("special tokens are the model's own"),
    "shuffle_dataset": drop("the order of rows is drawn by the seed in each epoch"),
    "ignore_bias_buffers": drop(hf.SAME_RUN),
}

PREFIXES: dict[str, Rule] = {
    **hf.PREFIXES,
    "bnb_": drop("it is about load_in_4bit"),
    "use_bnb_": drop("it is about load_in_4bit"),
}

DEFAULTS: dict[str, Any] = {
    **hf.DEFAULTS,
    "learning_rate": 2e-5,
    "bf16": True,
    "gradient_checkpointing": True,
    "use_peft": False,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_target_modules": PEFT_PICKS,
    "max_length": 1024,
    "assistant_only_loss": False,
}
"""What TRL takes for what a file doesn't say, where that isn't what Mafunzo takes."""

TOOL = Tool("TRL", RULES, PREFIXES, lambda body: DEFAULTS)
