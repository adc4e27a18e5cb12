"""What a run is expected to take, from a probe on its real rows."""

import json
from pathlib import Path

import pytest

from mafunzo.compute.components import estimate
from mafunzo.entities.estimate import Estimate
from mafunzo.tracking.atomic_json import write_json
from tests.support.component_line import complete, refused
from tests.support.tiny_training import learnable_rows, write_base, write_prepared

DROPPED = [
    {"file": "t.jsonl", "row": 3, "reason": "it has no assistant message"},
    {"file": "t.jsonl", "row": 9, "reason": "it has no assistant message"},
]
LINE = ("--apply_lora", "true", "--per_device_train_batch_size", "4", "--num_train_epochs", "2")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    base = write_base(tmp_path / "base")
    prepared = write_prepared(tmp_path / "prepared", learnable_rows(12), learnable_rows(4, seed=1))
    split = {"rows_read": 14, "rows_kept": 12, "tokens": 160, "dropped": DROPPED}
    held_out = {"rows_read": 4, "rows_kept": 4, "tokens": 50, "dropped": []}
    write_json(prepared / "report.json", {"splits": {"train": split, "validation": held_out}})
    step = tmp_path / "step"
    (step / "outputs").mkdir(parents=True)
    monkeypatch.setenv("MAFUNZO_STEP_FOLDER", str(step))
    return {"model": base, "prepared": prepared, "step": step, "output": step / "outputs" / "estimate"}


def arguments(folders: dict[str, Path], *options: str) -> list[object]:
    argv = ["--model", folders["model"], "--prepared", folders["prepared"], "--estimate", folders["output"]]
    return [*argv, *options]


def estimated(folders: dict[str, Path], *options: str) -> Estimate:
    complete(estimate, arguments(folders, *options))
    return Estimate.from_dict(json.loads((folders["output"] / "estimate.json").read_text()))


def test_rows_tokens_steps_time_memory_and_disk_are_told(folders: dict[str, Path]) -> None:
    told = estimated(folders, *LINE)
    assert (told.rows["train"].read, told.rows["train"].kept) == (14, 12)
    assert told.rows["train"].dropped == {"it has no assistant message": 2}
    assert told.tokens == 2 * sum(len(ids) for ids, _ in learnable_rows(12))
    assert (told.steps, told.rows_per_step, told.epochs, told.evaluations, told.saves) == (6, 4, 2, 2, 2)
    assert 0 < told.time_s.low < told.time_s.expected < told.time_s.high
    assert told.time_s.high >= 1.149 * told.time_s.expected
    assert told.memory_bytes.expected > 2**20 and told.free_memory_bytes > 0
    weights = (folders["model"] / "model.safetensors").stat().st_size
    assert weights < told.disk_bytes < told.free_disk_bytes
    assert told.start_s > 0 and told.plan and told.device == "cpu" and not told.stops_early


def test_nothing_that_was_trained_is_left(folders: dict[str, Path]) -> None:
    before = (folders["model"] / "model.safetensors").read_bytes()
    estimated(folders, *LINE)
    outputs = folders["step"] / "outputs"
    assert [path.relative_to(outputs).as_posix() for path in outputs.rglob("*")] == [
        "estimate",
        "estimate/estimate.json",
    ]
    assert (folders["model"] / "model.safetensors").read_bytes() == before


def test_more_kept_checkpoints_take_more_of_the_disk(folders: dict[str, Path], tmp_path: Path) -> None:
    all_of_them = estimated(folders, *LINE)
    folders["output"] = tmp_path / "other"
    assert estimated(folders, *LINE, "--save_total_limit", "1").disk_bytes < all_of_them.disk_bytes


def test_a_run_that_cannot_fit_is_refused_with_what_it_needs(folders: dict[str, Path]) -> None:
    assert refused(estimate, arguments(folders, *LINE, "--max_memory_gb", "0.001")) == 1
    error = json.loads((folders["step"] / "error.json").read_text())
    assert error["code"] == "out_of_memory" and "max_memory_gb is 0.001" in error["message"]
    assert not folders["output"].exists()
