"""The training arguments: the parameters of the finetune step as real booleans, numbers and names.

The table of parameters declares them (where each one's effect, unit and bounds are told), and the command line parses them.
`to_values` gives back what the table's own words were, for the files that record them: `finetune_args.json`, and the
identity of a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from mafunzo.entities.job import Value
from mafunzo.entities.parameters.constraint import faults_between
from mafunzo.entities.parameters.table import DEFAULTS
from mafunzo.entities.parameters.target_modules import TargetModules
from mafunzo.errors import InvalidParameter


@dataclass(frozen=True)
class TrainingArguments:
    """The finetune step's parameters, each under its own name."""

    num_nodes_finetune: int
    number_of_gpu_to_use_finetuning: int
    trust_remote_code: bool
    apply_lora: bool
    lora_alpha: int
    lora_r: int
    lora_dropout: float
    num_train_epochs: float
    max_steps: int
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    auto_find_batch_size: bool
    gradient_accumulation_steps: int
    eval_accumulation_steps: int
    optim: Literal["adamw_torch", "adafactor", "adamw_torch_fused", "sgd", "muon"]
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "cosine_with_min_lr",
        "warmup_stable_decay",
        "wsd",
    ]
    max_grad_norm: float
    precision: Literal["32", "16"]
    seed: int
    enable_full_determinism: bool
    dataloader_num_workers: int
    evaluation_strategy: Literal["epoch", "steps", "disable"]
    evaluation_steps_interval: float
    eval_steps: int
    logging_strategy: Literal["epoch", "steps"]
    logging_steps: int
    metric_for_best_model: Literal["loss"]
    resume_from_checkpoint: bool
    save_total_limit: int
    apply_early_stopping: bool
    early_stopping_patience: int
    early_stopping_threshold: float
    apply_deepspeed: bool
    deepspeed_stage: Literal["2", "3"]
    cpu_processes_finetune: int
    strict_compute: bool
    lora_target_modules: str | None
    use_rslora: bool
    exclude_modules: str | None
    layers_to_transform: str | None
    layers_pattern: str | None
    rank_pattern: str | None
    alpha_pattern: str | None
    loraplus_lr_ratio: float | None
    init_lora_weights: str
    use_dora: bool
    warmup_ratio: float
    momentum: float | None
    neftune_noise_alpha: float
    num_decay_steps: int | None
    lr_decay_type: Literal["cosine", "linear", "1-sqrt"]
    min_lr: float | None
    min_lr_rate: float | None
    lr_timescale: int | None
    save_interval_s: float
    max_memory_gb: float
    data_parallel_strategy: Literal["ddp", "fsdp"]
    gradient_checkpointing: bool

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the arguments for typed values, with defaults; raises `InvalidParameter` with all faults between them."""
        values = {**DEFAULTS, **values}
        faults = faults_between(values)
        if faults:
            raise InvalidParameter("Training can't start.", faults)
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def to_values(self) -> dict[str, Value | None]:
        """Return the table's words for these arguments, booleans as "true" and "false"."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()}

    @property
    def requested_gpus(self) -> int:
        """The GPUs of all machines that are asked for: a step has as many times more rows."""
        return self.num_nodes_finetune * self.number_of_gpu_to_use_finetuning

    @property
    def lora_targets(self) -> TargetModules:
        """The layers that get an adapter, and what is theirs alone."""
        return TargetModules.of(vars(self))
