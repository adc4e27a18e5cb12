"""kill -9 of training at any moment, also while a checkpoint is written: who goes on ends with the same bits.

With dropout, several forward passes a step, packed rows, and a checkpoint after each step. `make soak` kills 20 times.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.result import REPOSITORY, write_result
from tests.support.tiny_training import learnable_rows, write_base, write_prepared
from tests.support.training_run import FULL, LORA, history

SHAPE = {"gradient_accumulation_steps": 2, "save_interval_s": 0, "save_total_limit": 2, "max_memory_gb": 16}
KINDS = {"LoRA": LORA | SHAPE | {"lora_dropout": 0.1}, "full": FULL | SHAPE}
STEPS_OF_AN_EPOCH = 3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", list(KINDS))
def test_two_kills_of_training_change_no_bit(tmp_path: Path, kind: str) -> None:
    assert kill_training(tmp_path, KINDS[kind], kills=2, epochs=15, seed=1)["faults"] == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", list(KINDS))
def test_twenty_kills_of_training_change_no_bit(tmp_path: Path, kind: str) -> None:
    result = kill_training(tmp_path, KINDS[kind], kills=20, epochs=120, seed=20)
    write_result(f"soak_kill_training_{kind.lower()}", "kill -9 of training, every other one while it saves", result)
    assert result["faults"] == []


def kill_training(folder: Path, values: dict[str, Any], kills: int, epochs: int, seed: int) -> dict[str, Any]:
    """Kill a run so often, every other time while it writes a checkpoint, and compare its end with an uninterrupted one's."""
    base = write_base(folder / "base")
    prepared = write_prepared(folder / "prepared", learnable_rows(24), learnable_rows(8, seed=1))
    values = values | {"num_train_epochs": epochs}
    whole = folder / "whole"
    assert _start(base, prepared, whole, values, []).wait() == 0
    rng, moments, attempts = random.Random(seed), [], []
    for number in range(kills):
        output = folder / str(number)
        process = _start(base, prepared, output, values, attempts)
        attempts.insert(0, output)
        moments.append(_kill_at_a_moment(process, output, rng, is_saving=number % 2 == 0))
    last = folder / "last"
    code = _start(base, prepared, last, values, attempts).wait()
    faults = [f"attempt {n} had ended before it was killed" for n, moment in enumerate(moments) if moment == "ended"]
    faults += [] if code == 0 else [f"the last attempt ended with exit code {code}"]
    faults += [] if code else _differences(whole, last)
    return {"faults": faults, "steps": epochs * STEPS_OF_AN_EPOCH, "kills": moments}


def _start(
    base: Path, prepared: Path, output: Path, values: dict[str, Any], earlier: list[Path]
) -> "subprocess.Popen[bytes]":
    words = [base, prepared, output, json.dumps(values), *earlier]
    output.mkdir()
    with (output.parent / f"{output.name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "tests" / "faults" / "run_training.py"), *map(str, words)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=log,
            stderr=log,
        )


def _kill_at_a_moment(process: "subprocess.Popen[bytes]", output: Path, rng: random.Random, is_saving: bool) -> str:
    """Kill it after some of its own checkpoints, within the next few steps or with the next one half written; say when."""
    enough, pause_s, seen = rng.randint(1, 4), rng.uniform(0, 0.05), set[str]()
    while process.poll() is None:
        names = set(os.listdir(output))
        seen |= {name for name in names if name.startswith("checkpoint-")}
        if len(seen) >= enough and not is_saving:
            time.sleep(pause_s)
            break
        if len(seen) >= enough and any(name.endswith(".tmp") for name in names):
            break
        time.sleep(0.001)
    process.kill()
    if process.wait() != -9:
        return "ended"
    left = [name for name in os.listdir(output) if name.endswith(".tmp")]
    return f"while {left[0].strip('.').removesuffix('.tmp')} was written" if left else "between two checkpoints"


def _differences(whole: Path, last: Path) -> list[str]:
    """Return in what the run that was killed differs from the one that wasn't."""
    faults = [
        f"{key} over steps" for key in ("loss", "eval_loss", "grad_norm") if history(whole, key) != history(last, key)
    ]
    name = next(name for name in ("adapter_model.safetensors", "model.safetensors") if (whole / name).exists())
    if (whole / name).read_bytes() != (last / name).read_bytes():
        faults.append(f"the bytes of {name}")
    receipt = json.loads((last / "finetune_args.json").read_text())["resumed"]
    return faults + ([] if receipt.endswith(": bit-identical to an uninterrupted run") else [f"it says: {receipt}"])
