"""Two real processes estimate the run that they would take together."""

import json
import sys
from pathlib import Path

import pytest

from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.entities.estimate import Estimate
from mafunzo.tracking.atomic_json import write_json
from tests.support.step_process import ended
from tests.support.tiny_training import learnable_rows, write_base, write_prepared
from tests.support.two_processes import ROOT

LINE = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", "--cpu_processes_finetune", "2"]
STRATEGIES = [
    pytest.param([], "ddp", id="ddp"),
    pytest.param(["--data_parallel_strategy", "fsdp", "--apply_lora", "true"], "fsdp", id="fsdp"),
    pytest.param(
        ["--apply_deepspeed", "true", "--deepspeed_stage", "3"], "ZeRO 3", id="ZeRO 3", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("options", "strategy"), STRATEGIES)
def test_two_processes_measure_what_they_take_together(tmp_path: Path, options: list[str], strategy: str) -> None:
    base = write_base(tmp_path / "base")
    prepared = write_prepared(tmp_path / "prepared", learnable_rows(21), learnable_rows(8, seed=1))
    split = {"rows_read": 21, "rows_kept": 21, "tokens": 300, "dropped": []}
    write_json(prepared / "report.json", {"splits": {"train": split}})
    output, step = tmp_path / "estimate", tmp_path / "step"
    argv = ["--model", str(base), "--prepared", str(prepared), "--estimate", str(output), *LINE, *options]
    command = [sys.executable, "-m", "mafunzo.compute.components.estimate", *argv]
    LocalLauncher().start(command, step, {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, processes=2)
    assert ended(step).exit_code == 0, "\n".join(log.read_text()[-4000:] for log in sorted(step.glob("log*.txt")))
    estimate = Estimate.from_dict(json.loads((output / "estimate.json").read_text()))
    assert (estimate.processes, estimate.strategy, estimate.steps, estimate.rows_per_step) == (2, strategy, 3, 8)
    assert estimate.tokens == sum(len(ids) for ids, _ in learnable_rows(21))
    assert estimate.total_memory_bytes is not None
    assert estimate.memory_bytes.expected < estimate.total_memory_bytes.expected <= 2 * estimate.memory_bytes.expected
    assert estimate.time_s.expected > 0 and estimate.disk_bytes > 0
    assert not list(tmp_path.glob(".probe-*"))
