"""Two real processes train as one does, and end together. All runs but the last ones share two processes."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mafunzo.compute.device.topology import sockets
from tests.support.tiny_training import learnable_rows, write_base, write_prepared
from tests.support.training_run import FULL, LORA, history, overfitting, train
from tests.support.two_processes import MANY, SINGLE_ROWS, endings, require_close, run_on_two

DROPOUT = LORA | MANY | {"lora_dropout": 0.2}
RETRIED = LORA
STOPPED = LORA | MANY | {"evaluation_strategy": "epoch"}
EARLY = FULL | {"num_train_epochs": 8, "apply_early_stopping": True, "learning_rate": 0.01}
ALIKE = {"LoRA": LORA | MANY, "full": FULL | MANY, "single-rows": SINGLE_ROWS, "out-of-memory": RETRIED}
SCENARIOS = [
    *({"name": name, "values": values} for name, values in ALIKE.items() if name != "out-of-memory"),
    {"name": "out-of-memory", "values": RETRIED, "disturbance": ["out of memory", 2]},
    {
        "name": "without-room",
        "values": LORA | {"per_device_train_batch_size": 2},
        "disturbance": ["out of memory for ever", 2],
    },
    {"name": "NaN", "values": LORA, "disturbance": ["NaN", 3]},
    {"name": "early", "values": EARLY, "prepared": "p"},
    {"name": "dropout", "values": DROPOUT},
    {"name": "dropout-resumed", "values": DROPOUT, "source": "dropout/checkpoint-2"},
    {"name": "resumed-on-two", "values": LORA | MANY, "source": "alone/checkpoint-2"},
    {"name": "stopped", "values": STOPPED, "disturbance": ["SIGTERM", 3]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The runs of two processes, and `alone`, which one took."""
    folder = tmp_path_factory.mktemp("ranks")
    base = write_base(folder / "base")
    prepared = write_prepared(folder / "prepared", learnable_rows(24), learnable_rows(8, seed=1))
    overfitting(folder)
    train(folder, base, prepared, "alone", **(LORA | MANY))
    record = run_on_two(folder, SCENARIOS)
    logs = "\n".join(log.read_text() for log in sorted((folder / "step").glob("log*.txt")))
    assert record.exit_code == 0, logs
    return folder


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_take_the_same_steps_as_one(folder, tmp_path, name):
    """To rounding; also where one of them has no row of a step, and where memory runs out on one of them."""
    _, alone = train(tmp_path, folder / "base", folder / "prepared", "out", **ALIKE[name])
    require_close(folder / name, alone)
    assert endings(folder, name) == [{}, {}]


def test_memory_that_runs_out_on_one_halves_the_passes_of_both(folder):
    whole = [json.loads((folder / name / "finetune_args.json").read_text()) for name in ("LoRA", "out-of-memory")]
    assert whole[1]["forward_tokens"] < whole[0]["forward_tokens"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("NaN", "The loss is nan at step"), ("without-room", "Out of memory in a forward or backward pass of")],
)
def test_what_ends_one_ends_both_with_the_same_words(folder, name, text):
    one, other = endings(folder, name)
    assert one == other
    assert text in one["error"]


def test_both_stop_early_where_one_process_does(folder, tmp_path):
    _, alone = train(tmp_path, folder / "base", folder / "p", "out", **EARLY)
    require_close(folder / "early", alone)
    assert len(history(alone, "eval_loss")) < EARLY["num_train_epochs"]


def test_dropout_differs_by_rank_and_a_resumed_run_is_equal_to_the_bit(folder):
    states = load_file(folder / "dropout" / "checkpoint-2" / "rng.safetensors")
    assert not states["cpu"].equal(states["cpu.1"])
    whole, resumed = folder / "dropout", folder / "dropout-resumed"
    assert history(resumed, "loss") == history(whole, "loss")
    assert history(resumed, "eval_loss") == history(whole, "eval_loss")
    files = [path / "adapter_model.safetensors" for path in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_of_one_process_goes_on_on_two(folder):
    require_close(folder / "resumed-on-two", folder / "alone")


def test_a_run_of_two_processes_goes_on_on_one(folder, tmp_path):
    shutil.copytree(folder / "LoRA" / "checkpoint-2", tmp_path / "out" / "checkpoint-2")
    values = LORA | MANY | {"resume_from_checkpoint": True}
    _, resumed = train(tmp_path, folder / "base", folder / "prepared", "out", **values)
    require_close(resumed, folder / "alone")


def test_a_signal_to_one_saves_one_checkpoint_and_stops_both(folder):
    assert endings(folder, "stopped") == [{"exit": 143}, {"exit": 143}]
    assert [path.name for path in (folder / "stopped").glob("*checkpoint*")] == ["checkpoint-1"]


def test_the_first_one_alone_writes_metrics_and_the_log(folder):
    lines = [json.loads(line) for line in (folder / "LoRA.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert all(one < other for one, other in pairwise(steps))
    first = (folder / "step" / "log.txt").read_text()
    assert "2 processes train together, and share the 16 rows of a step" in first
    assert "is faster, but where memory decides" in first or sockets() > 1
    other = (folder / "step" / "log.1.txt").read_text()
    assert "Rows:" not in other and "progress" not in other


def test_a_process_that_is_killed_ends_the_other_and_is_told(tmp_path):
    write_base(tmp_path / "base")
    write_prepared(tmp_path / "prepared", learnable_rows(24), learnable_rows(8, seed=1))
    record = run_on_two(tmp_path, [{"name": "out", "values": LORA, "disturbance": ["SIGKILL", 3]}])
    assert (record.exit_code, record.signal) == (137, 9)
    assert "process 1 ended with -9" in (tmp_path / "step" / "log.txt").read_text()


@pytest.mark.slow
def test_an_error_of_one_is_what_is_told_of_both(tmp_path):
    write_base(tmp_path / "base")
    write_prepared(tmp_path / "prepared", learnable_rows(24), learnable_rows(8, seed=1))
    record = run_on_two(tmp_path, [{"name": "out", "values": LORA, "disturbance": ["error", 3]}])
    assert record.exit_code == 1
    log = (tmp_path / "step" / "log.txt").read_text()
    assert "process 1 ended with 1" in log
    assert "The last rank broke." in log
