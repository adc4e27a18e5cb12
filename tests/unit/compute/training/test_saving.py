"""What is saved between validations, so that little is lost: by the clock, and at SIGTERM; going on from it changes no bit."""

import os
import signal
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mafunzo.compute.device.memory import used_bytes
from mafunzo.compute.training import checkpoint, saving
from mafunzo.compute.training import trainer as trainer_module
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.checkpoint import checkpoints, read_state, step_of, verify
from mafunzo.compute.training.memory_plan import MemoryPlan
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.run import TrainingRequest, assemble
from mafunzo.compute.training.saving import Saver, has_room
from mafunzo.compute.training.snapshot import Snapshot
from mafunzo.compute.training.state import History, TrainingState
from mafunzo.compute.training.trainer import Trainer, finetune
from mafunzo.errors import StorageFull
from mafunzo.tracking.step_folder import TERMINATED
from tests.support.stray_signal import stray_sigterm_told
from tests.support.training_run import FULL, LORA, ZERO, history, train

# Twelve rows a step, each in a forward pass of its own; two steps an epoch; dropout tests the random state.
PASSES = {"num_train_epochs": 2, "gradient_accumulation_steps": 3, "lora_dropout": 0.1}
PASSES_OF_A_STEP = 12
IN_THE_SECOND_STEP = PASSES_OF_A_STEP + 3
VALIDATION_ROWS = 8


@pytest.fixture(autouse=True)
def stray_sigterm():
    with stray_sigterm_told():
        yield


@pytest.fixture(autouse=True)
def one_row_a_pass(monkeypatch):
    monkeypatch.setattr(trainer_module, "plan_memory", lambda run: MemoryPlan(1, *[0] * 7))


class Killed(BaseException):
    """Stands for SIGKILL: nothing that training does about it counts."""


@pytest.fixture
def at_pass(monkeypatch):
    """Have something happen in the nth forward pass, validation's included."""

    def arrange(n: int, act) -> None:
        inner, calls = Supervised.loss, iter(range(1, 1000))

        def loss(self, packed, batch):
            if next(calls) == n:
                act()
            return inner(self, packed, batch)

        monkeypatch.setattr(Supervised, "loss", loss)

    return arrange


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def attempt(tmp_path: Path, base: Path, prepared: Path, number: int, values) -> Path:
    output = tmp_path / str(number)
    earlier = tuple(tmp_path / str(one) for one in range(number - 1, 0, -1))
    finetune(TrainingRequest(base, prepared, output, TrainingArguments.from_values(values), earlier=earlier))
    return output


KINDS = [
    pytest.param(LORA, id="LoRA"),
    pytest.param(FULL, id="full", marks=pytest.mark.slow),
    pytest.param(ZERO, id="DeepSpeed", marks=pytest.mark.slow),
]


def steps_in(folder: Path) -> list[int]:
    return [step_of(path) for path in checkpoints(folder)]


def require_same_result(one: Path, other: Path) -> None:
    assert history(one, "loss") == history(other, "loss")
    assert history(one, "eval_loss") == history(other, "eval_loss")
    name = next(name for name in ("adapter_model.safetensors", "model.safetensors") if (one / name).exists())
    assert (one / name).read_bytes() == (other / name).read_bytes()
    assert steps_in(one) == steps_in(other)


@pytest.mark.parametrize("values", KINDS)
def test_a_kill_in_the_middle_of_an_epoch_loses_no_more_than_the_interval(tmp_path, base, prepared, values, at_pass):
    values = values | PASSES | {"save_interval_s": 0}
    _, whole = train(tmp_path, base, prepared, "whole", **values)
    at_pass(IN_THE_SECOND_STEP, kill)
    with pytest.raises(Killed):
        attempt(tmp_path, base, prepared, 1, values)
    assert steps_in(tmp_path / "1") == [1]
    require_same_result(attempt(tmp_path, base, prepared, 2, values), whole)


@pytest.mark.parametrize("strategy", ["disable", "epoch"])
def test_whatever_the_evaluation_strategy_is(tmp_path, base, prepared, strategy, at_pass):
    values = LORA | PASSES | {"save_interval_s": 0, "evaluation_strategy": strategy}
    at_pass(IN_THE_SECOND_STEP, kill)
    with pytest.raises(Killed):
        attempt(tmp_path, base, prepared, 1, values)
    assert steps_in(tmp_path / "1") == [1]


@pytest.mark.parametrize("values", KINDS)
def test_sigterm_in_the_middle_of_a_step_saves_the_step_before_and_ends(tmp_path, base, prepared, values, at_pass):
    values = values | PASSES
    _, whole = train(tmp_path, base, prepared, "whole", **values)
    before = signal.getsignal(signal.SIGTERM)
    at_pass(IN_THE_SECOND_STEP, terminate)
    with pytest.raises(SystemExit) as ended:
        attempt(tmp_path, base, prepared, 1, values)
    assert ended.value.code == TERMINATED == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert steps_in(tmp_path / "1") == [1]
    require_same_result(attempt(tmp_path, base, prepared, 2, values), whole)


def test_sigterm_before_the_first_step_has_nothing_to_save(tmp_path, base, prepared, at_pass):
    at_pass(1, terminate)
    with pytest.raises(SystemExit):
        attempt(tmp_path, base, prepared, 1, LORA)
    assert steps_in(tmp_path / "1") == []


@pytest.mark.parametrize(
    ("n", "saved"),
    [
        pytest.param(2 * PASSES_OF_A_STEP + 1, [2], id="after the first epoch"),
        pytest.param(4 * PASSES_OF_A_STEP + VALIDATION_ROWS + 1, [2, 4], id="after the last step"),
    ],
)
def test_sigterm_while_it_is_validated_has_the_next_attempt_validate_first(tmp_path, base, prepared, n, saved, at_pass):
    values = LORA | PASSES | {"per_device_eval_batch_size": 1}
    _, whole = train(tmp_path, base, prepared, "whole", **values)
    at_pass(n, terminate)
    with pytest.raises(SystemExit):
        attempt(tmp_path, base, prepared, 1, values)
    assert steps_in(tmp_path / "1") == saved
    require_same_result(attempt(tmp_path, base, prepared, 2, values), whole)


def test_what_was_saved_by_the_clock_is_gone_at_the_end(tmp_path, base, prepared):
    _, folder = train(tmp_path, base, prepared, **LORA, num_train_epochs=2, save_interval_s=0)
    assert steps_in(folder) == [6, 12]
    assert history(folder, "eval_loss")


def test_a_checkpoint_is_saved_before_the_interval_is_over(tmp_path, base, prepared):
    """Steps of four minutes: after the second, the third would end after ten minutes."""
    values = LORA | {"evaluation_strategy": "disable", "num_train_epochs": 1}
    run = assemble(TrainingRequest(base, prepared, tmp_path / "out", TrainingArguments.from_values(values)))
    run.request.output.mkdir()
    state, now_s, saved = TrainingState(), 0.0, []

    class Spy(Saver):
        def save(self) -> None:
            super().save()
            saved.append(state.step)

    saver = Spy(run, state, clock=lambda: now_s)
    trainer = Trainer(run, state, History(run, state), None, saver)
    inner = trainer.step

    def step(batches):
        nonlocal now_s
        now_s += 240.0
        return inner(batches)

    trainer.step = step
    trainer.train()
    assert saved == [2, 4, 6]
    assert steps_in(tmp_path / "out") == [6]


def test_nothing_is_saved_twice(tmp_path, base, prepared):
    arguments = TrainingArguments.from_values(LORA | {"save_interval_s": 0})
    run = assemble(TrainingRequest(base, prepared, tmp_path / "out", arguments))
    run.request.output.mkdir()
    state = TrainingState()
    saver = Saver(run, state)
    saver.save_if_due()
    assert steps_in(tmp_path / "out") == []
    state.step = 1
    saver.save_if_due()
    saver.wait()
    first = (tmp_path / "out" / "checkpoint-1").stat().st_ino
    saver.save_if_due()
    saver.wait()
    assert (tmp_path / "out" / "checkpoint-1").stat().st_ino == first


@pytest.fixture
def saver(tmp_path, base, prepared) -> Saver:
    """Of a run whose first step is done."""
    run = assemble(TrainingRequest(base, prepared, tmp_path / "out", TrainingArguments.from_values(FULL)))
    run.request.output.mkdir()
    return Saver(run, TrainingState(step=1))


@pytest.fixture
def gate(monkeypatch):
    """Checkpoints are written once it is set."""
    opened, inner = Event(), checkpoint.save_checkpoint
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda *given: opened.wait(60) and inner(*given))
    yield opened
    opened.set()


def test_training_goes_on_while_a_checkpoint_is_written_and_changes_nothing_of_it(saver, gate, tmp_path):
    network, state = saver._run.network, saver._state
    weight = network.get_parameter("model.norm.weight")
    saver.save()
    with torch.no_grad():
        weight.fill_(7.0)
    state.history.append({"loss": 1.0, "step": 2})
    state.step = 2
    assert steps_in(tmp_path / "out") == []
    gate.set()
    saver.wait()
    folder = tmp_path / "out" / "checkpoint-1"
    assert not verify(folder)
    assert not (load_file(folder / "model.safetensors")["model.norm.weight"] == 7.0).any()
    assert read_state(folder)["log_history"] == []


def test_two_checkpoints_are_never_written_at_once(saver, monkeypatch, tmp_path):
    inner, at_work, overlaps = checkpoint.save_checkpoint, Lock(), []

    def write(*given):
        overlaps.append(not at_work.acquire(blocking=False))
        try:
            return inner(*given)
        finally:
            at_work.release()

    monkeypatch.setattr(checkpoint, "save_checkpoint", write)
    for step in (1, 2, 3):
        saver._state.step = step
        saver.save()
    saver.wait()
    assert overlaps == [False] * 3
    assert steps_in(tmp_path / "out")[-1] == 3


@pytest.mark.parametrize("meet", ["save_if_due", "wait", "save", "stop"])
def test_what_goes_wrong_in_the_writer_is_raised_in_the_loop(saver, monkeypatch, meet):
    def broken(*given):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "save_checkpoint", broken)
    saver.save()
    wait([saver._writer._write])
    with pytest.raises(OSError, match="Input/output error"):
        getattr(saver, meet)()


def test_the_end_of_training_raises_it(tmp_path, base, prepared, monkeypatch):
    def broken(*given):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "save_checkpoint", broken)
    with pytest.raises(OSError, match="Input/output error"):
        train(tmp_path, base, prepared, **LORA, num_train_epochs=1)


def test_where_memory_has_no_room_for_a_copy_training_waits_for_the_write(saver, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(saving, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(Snapshot, "copied", lambda snapshot: pytest.fail("a copy was made"))
    with caplog.at_level("INFO"):
        saver.save()
    assert steps_in(tmp_path / "out") == [1]
    assert "Training waits while checkpoint-1 is written: memory has no room for a copy of 0.0 GB" in caplog.text


def test_the_last_checkpoint_is_written_without_a_copy_as_nothing_trains_meanwhile(
    saver, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(Snapshot, "copied", lambda snapshot: pytest.fail("a copy was made"))
    saver._state.step = last = saver._run.order.total_steps
    with caplog.at_level("INFO"):
        saver.save()
    assert steps_in(tmp_path / "out") == [last]
    assert "Training waits" not in caplog.text


def test_a_copy_counts_within_the_memory_that_the_run_may_take(saver):
    run = saver._run
    assert has_room(run, 1000)
    arguments = replace(run.arguments, max_memory_gb=used_bytes(torch.device("cpu")) / 1e9 / 2)
    assert not has_room(replace(run, request=replace(run.request, arguments=arguments)), 1000)


def test_a_checkpoint_that_the_disk_has_no_room_for_is_told_before_it_is_written(saver, monkeypatch, tmp_path):
    saver.save()
    saver.wait()
    saver._state.step = 2
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    with pytest.raises(
        StorageFull, match=r"checkpoint-2 needs \d+ MB on the disk of .*, and 0 MB are free.* go on from there"
    ):
        saver.save()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-1"]
