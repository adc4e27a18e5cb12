"""A request to evaluate: the parameters of the step as real booleans, numbers and names, and the models and rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from mafunzo.entities.evaluation import EvaluationConfig


@dataclass(frozen=True)
class EvaluationArguments:
    """The evaluate step's parameters, each under its own name; -1 rows or prompts means all."""

    trust_remote_code: bool
    merge_lora_weights: bool
    seed: int
    evaluation_config_params: str | None
    max_evaluation_rows: int
    generation_rows: int
    max_prompt_tokens: int
    max_new_tokens: int
    forgetting_prompts: int
    reference_rows: int
    reference_max_tokens: int
    gate: Literal["none", "better", "not_worse"]
    gate_metric: str
    gate_max_kl: float | None


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate. `tuned` is an adapter's folder, or a whole model's.

    dtype: of both networks; None keeps the stored one.
    """

    base: Path
    tuned: Path
    prepared: Path
    arguments: EvaluationArguments
    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    dtype: torch.dtype | None = None
    device: str = "cpu"

    @property
    def is_adapter(self) -> bool:
        return (self.tuned / "adapter_config.json").exists()
