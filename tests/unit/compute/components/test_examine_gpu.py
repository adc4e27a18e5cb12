"""The examination of a GPU goes on whatever breaks, and compares what it says it compares."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from mafunzo.compute.components import examine_gpu
from mafunzo.compute.components.examine_gpu import Broken, examine


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"vocab_size": 300}')
    (tmp_path / "work").mkdir()
    return tmp_path / "base"


def test_what_breaks_is_told_and_hides_nothing_else(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], environment: Mapping[str, str]) -> str:
        raise Broken("CUDA error: device-side assert triggered")

    monkeypatch.setattr(examine_gpu, "_run", run)
    checks = list(examine(tmp_path / "work", base))
    assert [check.is_passed for check in checks] == [False] * 4 + [None]
    assert {check.measured for check in checks[:4]} == {"CUDA error: device-side assert triggered"}


def test_what_there_is_no_time_for_is_named(base: Path, tmp_path: Path) -> None:
    checks = list(examine(tmp_path / "work", base, limit_s=0.0))
    assert len(checks) == 5 and {check.is_passed for check in checks} == {None}


def test_losses_are_compared_with_those_of_a_process_that_sees_no_gpu(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], environment: Mapping[str, str]) -> str:
        has_gpu = "CUDA_VISIBLE_DEVICES" not in environment
        if "MAFUNZO_STEP_FOLDER" not in environment:  # TRL
            return json.dumps({"marks_s": [0.5 * n for n in range(8)]})
        step = Path(environment["MAFUNZO_STEP_FOLDER"])
        output = Path(command[command.index("--pytorch_model_folder") + 1])
        output.mkdir()
        (output / "all_results.json").write_text('{"planned_peak_memory_bytes": 100, "peak_memory_bytes": 109}')
        lines = [{"time": 10.0 + n, "step": n, "loss": 3.0 - n / 10 + has_gpu * 0.005} for n in range(8)]
        (step / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return ""

    monkeypatch.setattr(examine_gpu, "_run", run)
    checks = {check.name: check for check in examine(tmp_path / "work", base)}
    assert {name: check.is_passed for name, check in checks.items() if "losses" in name} == {
        "losses of a tiny network, LoRA, 32 bits": False,
        "losses of a tiny network, LoRA, 16 bits": True,
        "losses of a tiny network, all weights, 32 bits": False,
        "losses of a tiny network, all weights, 16 bits": True,
        "losses of the model, LoRA, 32 bits": False,
        "losses of the model, LoRA, 16 bits": True,
    }
    assert checks["losses of the model, LoRA, 32 bits"].measured == "at most 0.00500 from the CPU's in 8 steps"
    assert checks["speed of LoRA, 16 bits"].measured == "16,384 tokens/s"
    assert checks["speed against TRL's best"].measured == "0.50 times its 32,768 tokens/s"
    assert checks["speed against TRL's best"].is_passed is False
    assert checks["peak memory against the plan"].is_passed
