"""Two real processes that train together as a step's do, in scenarios of `rank_scenarios.py`, and what is expected of them."""

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mafunzo.control.launcher.local import ExitRecord, LocalLauncher
from tests.support.step_process import ended
from tests.support.training_run import LORA, history

ROOT = Path(__file__).parents[2]
# Clipping that bites, decay, accumulation, a cut last step, uneven batches of the validation, a checkpoint a step.
MANY = {
    "max_grad_norm": 0.1,
    "weight_decay": 0.1,
    "gradient_accumulation_steps": 4,
    "num_train_epochs": 2,
    "per_device_eval_batch_size": 3,
    "evaluation_strategy": "steps",
    "eval_steps": 1,
}
SINGLE_ROWS = LORA | {"per_device_train_batch_size": 1, "max_steps": 3}


def run_on_two(folder: Path, scenarios: list) -> ExitRecord:
    scenarios = [{"prepared": "prepared", **scenario} for scenario in scenarios]
    (folder / "scenarios.json").write_text(json.dumps(scenarios))
    command = [sys.executable, "-m", "tests.support.rank_scenarios", str(folder)]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    LocalLauncher().start(command, folder / "step", environment, processes=2)
    return ended(folder / "step")


def endings(folder: Path, name: str) -> list:
    return [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(2)]


def require_close(one: Path, other: Path) -> None:
    for key in ("loss", "grad_norm", "eval_loss", "mean_token_accuracy", "num_tokens"):
        assert history(one, key) == pytest.approx(history(other, key), rel=1e-4), key
    name = "adapter_model.safetensors" if (one / "adapter_model.safetensors").exists() else "model.safetensors"
    ours, theirs = load_file(one / name), load_file(other / name)
    for key, tensor in ours.items():
        assert (tensor - theirs[key]).abs().max() < 1e-4, key
