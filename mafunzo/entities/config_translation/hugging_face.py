"""The arguments of transformers' `TrainingArguments`, which LLaMA-Factory's and TRL's files have too.

Names and defaults are those of transformers 5 (`training_args.py`); TRL's and LLaMA-Factory's own stand in their modules.
"""

from collections.abc import Callable
from typing import Any

from mafunzo.entities.config_translation.rule import Rule, drop, off, only, spelled, take, when
from mafunzo.entities.config_translation.translation import Config, Outcome, changed, dropped, refused, taken
from mafunzo.entities.parameters.table import PARAMETERS

FULL_STATE = "trained weights and the optimizer's state are float32 here, products 16 bits"
SAME_RUN = "it changes no result"
TRACKED = "metrics are recorded in any case, and MLflow reads them"
BEST = "the result is the checkpoint with the lowest validation loss"
SPEED = "how attention and products are computed is chosen by what the machine has"


def optimizer(value: Any, config: Config) -> Outcome:
    """Translate `optim`; other kernels take the same update."""
    name = str(value)
    if name in PARAMETERS["optim"].enum and name not in PARAMETERS["optim"].refused:
        return taken(optim=name)
    if name in ("adamw_hf", "adamw_apex_fused", "adamw_torch_xla"):
        return taken("the same update by another kernel", optim="adamw_torch")
    if name in ("paged_adamw", "paged_adamw_32bit"):
        return taken("its state has 32 bits too", optim="adamw_torch")
    if "8bit" in name or "4bit" in name or "fp8" in name:
        return refused(
            "the optimizer's state would have fewer bits. optim=adamw_torch keeps 32, which needs more memory and "
            "learns as well",
            "optim",
        )
    offered = [one for one in PARAMETERS["optim"].enum if one not in PARAMETERS["optim"].refused]
    return refused(f"the optimizer isn't here: {', '.join(offered)}", "optim")


def scheduler(value: Any, config: Config) -> Outcome:
    """Translate `lr_scheduler_type`."""
    if value in PARAMETERS["lr_scheduler_type"].enum:
        return taken(lr_scheduler_type=value)
    return refused(f"expected {', '.join(PARAMETERS['lr_scheduler_type'].enum)}", "lr_scheduler_type")


def bits(value: Any, config: Config) -> Outcome:
    """Translate `bf16`, `fp16` or a dtype."""
    if value in (False, "false", "float32", "fp32", "no"):
        return dropped("precision is 32 bits by default")
    if value in (True, "true", "auto", "full", "bfloat16", "bf16", "float16", "fp16", "half"):
        return changed(f"{FULL_STATE}, in bfloat16 where the hardware computes in it", precision="16")
    return refused("expected true, false or auto", "precision")


def evaluations(value: Any, config: Config) -> Outcome:
    """Translate `eval_strategy`."""
    if value in ("no", False):
        return taken(evaluation_strategy="disable")
    if value not in ("steps", "epoch"):
        return refused("expected no, steps or epoch", "evaluation_strategy")
    if config.get("load_best_model_at_end"):
        return taken(evaluation_strategy=value)
    return changed(f"{BEST}, not the last one", evaluation_strategy=value)


def share_or_steps(value: Any, config: Config) -> Outcome:
    """Translate `eval_steps`: steps, or a share of the whole run."""
    if isinstance(value, float) and value < 1:
        return refused("a share of the run isn't known here: give steps", "eval_steps")
    return taken(eval_steps=value)


def warmup(value: Any, config: Config) -> Outcome:
    """Translate `warmup_steps`, which may be a share of the run."""
    if isinstance(value, float) and 0 < value < 1:
        return taken(warmup_ratio=value)
    return taken(warmup_steps=int(value) if isinstance(value, float) and value.is_integer() else value)


def kept(value: Any, config: Config) -> Outcome:
    """Translate `metric_for_best_model`."""
    if value in ("loss", "eval_loss"):
        return taken(metric_for_best_model="loss")
    return refused("the best checkpoint is that of the lowest validation loss", "metric_for_best_model")


def deepspeed(value: Any, config: Config) -> Outcome:
    """Translate the path of a DeepSpeed configuration."""
    if not isinstance(value, str):
        return refused("expected the path of a JSON file", "deepspeed")
    return taken(apply_deepspeed="true", deepspeed=value)


def early(value: Any, config: Config) -> Outcome:
    """Translate the patience of early stopping."""
    return taken(apply_early_stopping="true", early_stopping_patience=value)


def named(parameter: str, reason: str = "") -> Rule:
    """Return the rule for what another tool calls otherwise."""
    return lambda value, config: taken(reason, **{parameter: spelled(parameter, value)})


def packs_rows(batch: str) -> Rule:
    """Return the rule for packing that keeps rows apart. batch: what the tool calls the rows of a pass."""
    told = (
        f"rows share passes without seeing one another, but a step has as many rows as {batch} and "
        "gradient_accumulation_steps say, not as many full sequences"
    )
    return lambda value, config: changed(told) if value else dropped("asks for nothing")


def validation_share(data: str) -> Rule:
    """Return the rule for the share of the rows that validates. data: the tool's key of the rows."""
    told = "a tenth of the training rows, and another for the test, unless those are given"
    return lambda value, config: changed(told) if value else dropped(f"said at {data}")


def learns(turns: str, otherwise: str) -> Rule:
    """Return the rule for a switch by which other tokens are learned, as `train_on` names them. otherwise: what off means."""
    return lambda value, config: taken(train_on=turns) if value else dropped(otherwise)


def of_adapters(condition: Callable[[Config], bool]) -> Callable[[Rule], Rule]:
    """Return what makes a rule count only where `condition` says that adapters are trained."""
    return lambda rule: when(condition, rule, "all weights are trained, without adapters")


RULES: dict[str, Rule] = {
    **{
        name: take(name)
        for name in (
            "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
            "per_device_eval_batch_size", "gradient_accumulation_steps", "weight_decay", "adam_beta1", "adam_beta2",
            "adam_epsilon", "max_grad_norm", "seed", "warmup_ratio", "logging_steps", "logging_strategy",
            "gradient_checkpointing", "save_total_limit", "dataloader_num_workers", "auto_find_batch_size",
            "trust_remote_code",
        )
    },
    "optim": optimizer,
    "lr_scheduler_type": scheduler,
    "bf16": bits,
    "fp16": bits,
    "warmup_steps": warmup,
    "full_determinism": named("enable_full_determinism"),
    "eval_strategy": evaluations,
    "evaluation_strategy": evaluations,
    "eval_steps": share_or_steps,
    "metric_for_best_model": kept,
    "deepspeed": deepspeed,
    "early_stopping_patience": early,
    "load_best_model_at_end": lambda value, config: dropped(BEST if value else "said at eval_strategy"),
    "greater_is_better": only(False, reason="the lowest validation loss decides"),
    "lr_scheduler_kwargs": only({}, reason="not known here"),
    "lr_scheduler_kwargs.num_decay_steps": named("num_decay_steps"),
    "lr_scheduler_kwargs.decay_type": named("lr_decay_type"),
    "lr_scheduler_kwargs.min_lr": named("min_lr"),
    "lr_scheduler_kwargs.min_lr_rate": named("min_lr_rate"),
    "lr_scheduler_kwargs.min_lr_ratio": named("min_lr_rate"),
    "lr_scheduler_kwargs.timescale": named("lr_timescale"),
    "optim_args": off("arguments of optimizers aren't known here"),
    "label_smoothing_factor": off("labels aren't smoothed here"),
    "neftune_noise_alpha": take("neftune_noise_alpha"),
    "group_by_length": lambda value, config: (
        changed("rows are packed, so that nothing is padded, in the order that the seed draws")
        if value
        else dropped("asks for nothing")
    ),
    "data_seed": only(42, reason="seed draws the order of rows too: give seed"),
    "fsdp": off("data_parallel_strategy=fsdp shards over the processes, and takes no other setting"),
    "fsdp_config": only({}, reason="data_parallel_strategy=fsdp takes no settings"),
    "resume_from_checkpoint": off("`mafunzo job resume` goes on from a job's checkpoint"),
    "torch_compile": drop(SPEED),
    "use_liger_kernel": drop(SPEED),
    "tf32": drop(SPEED),
    "use_cpu": drop("the machine that is here computes"),
    "save_strategy": drop("a checkpoint is kept at each evaluation, and every save_interval_s"),
    "save_steps": drop("a checkpoint is kept at each evaluation, and every save_interval_s"),
    "save_only_model": drop("checkpoints hold all that training needs to go on"),
    "output_dir": drop("a job's outputs lie in the home: `mafunzo job download`"),
    "overwrite_output_dir": drop("each job has a folder of its own"),
    "logging_dir": drop(TRACKED),
    "logging_first_step": drop(TRACKED),
    "report_to": drop(TRACKED),
    "run_name": drop("--job-name or display_name names a job"),
    "push_to_hub": off("nothing is uploaded: `mafunzo model export` writes a folder"),
    "do_train": drop("a fine-tuning trains"),
    "do_eval": drop("base and tuned model are always compared"),
    "do_predict": drop("base and tuned model are always compared"),
    "gradient_checkpointing_kwargs": drop(SAME_RUN),
    "remove_unused_columns": drop("what isn't read of a row is noted by the check"),
    "include_num_input_tokens_seen": drop(TRACKED),
    "disable_tqdm": drop(SAME_RUN),
    "optim_target_modules": off("all trained weights have one optimizer"),
    "average_tokens_across_devices": only(True, reason="the loss is the mean over all tokens of a step"),
    "bf16_full_eval": drop("validation computes as training does"),
    "fp16_full_eval": drop("validation computes as training does"),
    "activation_checkpointing": named("gradient_checkpointing"),
    "activation_checkpointing_kwargs": drop(SAME_RUN),
    "torch_compile_backend": drop(SPEED),
    "torch_compile_mode": drop(SPEED),
    "liger_kernel_config": drop(SPEED),
    "use_cache": drop(SAME_RUN),
    "torch_empty_cache_steps": drop(SAME_RUN),
    "logging_nan_inf_filter": drop("a loss that isn't a number ends training with an error"),
    "project": drop(TRACKED),
    "eval_accumulation_steps": take("eval_accumulation_steps"),
    "eval_delay": only(0, reason="evaluations begin with training"),
    "eval_on_start": drop("base and tuned model are always compared"),
    "prediction_loss_only": drop("validation computes the loss only"),
    "include_for_metrics": drop("validation computes the loss only"),
    "label_names": drop("what is learned are the assistant's turns"),
    "ignore_data_skip": only(False, reason="training goes on where it was, with the rows that are left"),
    "restore_callback_states_from_checkpoint": drop("all that training needs to go on is restored"),
    "enable_jit_checkpoint": drop("SIGTERM saves, and stops"),
    "accelerator_config": off("processes are placed by number_of_gpu_to_use_finetuning and num_nodes_finetune"),
    "parallelism_config": off("data_parallel_strategy says what processes share"),
    "dataloader_drop_last": off("no row is left out"),
    "train_sampling_strategy": only("random", reason="the order of rows is drawn by the seed in each epoch"),
    "length_column_name": drop("it is about group_by_length"),
    "router_aux_loss_coef": off("the loss is cross-entropy alone"),
    "skip_memory_metrics": drop(TRACKED),
    "debug": drop(SAME_RUN),
    "local_rank": drop(SAME_RUN),
}  # fmt: skip
"""By argument."""

PREFIXES: dict[str, Rule] = {
    "hub_": drop("nothing is uploaded: `mafunzo model export` writes a folder"),
    "trackio_": drop(TRACKED),
    "wandb_": drop(TRACKED),
    "log_": drop(TRACKED),
    "ddp_": drop(SAME_RUN),
    "dataloader_": drop(SAME_RUN),
    "eval_do_": drop("validation computes the loss only"),
    "eval_use_": drop("validation computes the loss only"),
    "batch_eval_": drop("validation computes the loss only"),
    "save_on_": drop(SAME_RUN),
}
"""By how a name begins."""

DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "eval_strategy": "no",
    "optim": "adamw_torch_fused",
}
"""What transformers takes for what a file doesn't say, where that isn't what Mafunzo takes."""
