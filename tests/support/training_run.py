"""A whole run of tiny networks that the tests of training share."""

import json
from pathlib import Path

import torch

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.run import TrainingRequest
from mafunzo.compute.training.trainer import finetune
from mafunzo.entities.deepspeed import deepspeed_config
from mafunzo.entities.parameters.table import DEFAULTS
from mafunzo.tracking.metrics import MetricLog
from tests.support.tiny_training import learnable_rows, write_prepared

LORA = {
    "apply_lora": True,
    "lora_r": 4,
    "lora_alpha": 8,
    "learning_rate": 0.02,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 8,
    "logging_steps": 1,
}
FULL = LORA | {"apply_lora": False, "learning_rate": 0.003}
ZERO = FULL | {"apply_deepspeed": True}


def train(
    tmp_path: Path, base: Path, prepared: Path, name: str = "out", deepspeed: dict | None = None, **values
) -> tuple[dict, Path]:
    """deepspeed: a configuration of one's own."""
    metrics = MetricLog(tmp_path / f"{name}.jsonl")
    arguments = TrainingArguments.from_values(values)
    config = None if deepspeed is None else deepspeed_config(json.dumps(deepspeed), "deepspeed", DEFAULTS | values)
    results = finetune(TrainingRequest(base, prepared, tmp_path / name, arguments, metrics=metrics, deepspeed=config))
    return results, tmp_path / name


def logits(network) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.tensor([[5, 6, 7, 8, 20, 21, 22]])).logits.float()


def history(folder: Path, key: str) -> list[float]:
    state = json.loads((folder / "trainer_state.json").read_text())
    return [entry[key] for entry in state["log_history"] if key in entry]


def overfitting(tmp_path) -> Path:
    """Validation rows that contradict what is learned: the loss on them rises."""
    backwards = [(ids[::-1], [-100, -100, *ids[::-1][2:]]) for ids, _ in learnable_rows(8, seed=3)]
    return write_prepared(tmp_path / "p", learnable_rows(24), backwards)
