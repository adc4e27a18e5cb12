"""Memory that runs out although the plan had room: what is given up, in which order, and that the step stays the same."""

import json
import weakref

import pytest
import torch

from mafunzo.compute.training import saving
from mafunzo.compute.training.attention import SAVED_BYTES
from mafunzo.compute.training.batch import pack
from mafunzo.compute.training.head_loss import CHUNK, PART, chunk_of
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.recomputation import recomputed_layers
from mafunzo.compute.training.snapshot import Snapshot
from mafunzo.compute.training.state import History, TrainingState
from mafunzo.compute.training.tightening import Tightness, tighten
from mafunzo.compute.training.trainer import Trainer
from mafunzo.errors import OutOfMemory
from tests.support.tiny_training import random_rows, write_prepared
from tests.support.training_run import FULL, LORA, ZERO, history, train
from tests.unit.compute.training.test_memory_plan import run_of

TEXT = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.mark.parametrize(
    ("now", "shared_tokens", "layers", "after"),
    [
        pytest.param((1024, 0, 256), 900, 30, (450, 0, 256), id="a pass of several rows is halved"),
        pytest.param((1024, 15, 256), 301, 30, (151, 15, 256), id="also where layers are computed again already"),
        pytest.param((1024, 0, 256), 0, 30, (1024, 15, 256), id="a row alone: half of the layers"),
        pytest.param((1024, 4, 256), 0, 30, (1024, 15, 256), id="or up to half"),
        pytest.param((1024, 15, 256), 0, 30, (1024, 30, PART), id="then all, and the fewest logits at a time"),
        pytest.param((1024, 30, 256), 0, 30, (1024, 30, PART), id="all were: the fewest logits are left"),
        pytest.param((1024, 0, 256), 0, 1, (1024, 1, PART), id="a single layer"),
        pytest.param((1024, 0, 256), 0, 0, (1024, 0, PART), id="a network that can't compute layers again"),
        pytest.param((1024, 30, PART), 0, 30, None, id="nothing is left"),
        pytest.param((1024, 30, 0), 0, 30, None, id="nothing, and all logits at once"),
    ],
)
def test_what_is_given_up_next(now, shared_tokens, layers, after):
    expected = None if after is None else Tightness(*after)
    assert tighten(Tightness(*now), shared_tokens, layers) == expected


def running_out(monkeypatch, fails, in_backward: bool = False) -> list[int]:
    """Have memory run out in a step where `fails(network, batch)`; return the list of what ran out, which grows."""
    inner, step, failed, steps = Supervised.loss, Trainer.step, list[int](), list[int]()

    def counted(self, batches):
        steps.append(len(batches))
        return step(self, batches)

    def loss(self, packed, batch):
        result = inner(self, packed, batch)
        if steps and torch.is_grad_enabled() and fails(packed.network, batch):
            failed.append(len(batch.ids_T))
            if not in_backward:
                raise RuntimeError(TEXT)
            result.loss_sum.register_hook(lambda grad: (_ for _ in ()).throw(RuntimeError(TEXT)))
        return result

    monkeypatch.setattr(Supervised, "loss", loss)
    monkeypatch.setattr(Trainer, "step", counted)
    return failed


@pytest.mark.parametrize("values", [LORA, pytest.param(FULL, marks=pytest.mark.slow)], ids=["LoRA", "full"])
@pytest.mark.parametrize("in_backward", [False, True], ids=["forward", "backward"])
def test_passes_are_halved_without_being_asked_for_and_the_losses_stay(
    tmp_path, base, prepared, monkeypatch, caplog, values, in_backward
):
    _, plain = train(tmp_path, base, prepared, "plain", **values)
    failed = running_out(monkeypatch, lambda network, batch: len(batch.bounds) > 3, in_backward)
    with caplog.at_level("INFO"):
        _, tight = train(tmp_path, base, prepared, "tight", **values)
    assert failed and "tokens in a forward pass from here on, the effective batch as before" in caplog.text
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(tight, key) == pytest.approx(history(plain, key), rel=1e-4)
    recorded = json.loads((tight / "finetune_args.json").read_text())
    assert recorded["memory_plan"]["tightened"] == [
        f"after step 0: up to {recorded['forward_tokens']} tokens in a forward pass"
    ]


@pytest.mark.parametrize("in_backward", [False, True], ids=["forward", "backward"])
def test_layers_are_computed_again_where_a_row_alone_is_too_long_and_dropout_draws_the_same(
    tmp_path, base, prepared, monkeypatch, caplog, in_backward
):
    values = LORA | {"lora_dropout": 0.3, "per_device_train_batch_size": 1, "max_steps": 5}
    _, plain = train(tmp_path, base, prepared, "plain", **values)
    failed = running_out(monkeypatch, lambda network, batch: recomputed_layers(network) < 1, in_backward)
    with caplog.at_level("INFO"):
        _, tight = train(tmp_path, base, prepared, "tight", **values)
    assert len(failed) == 1
    assert "Memory ran out: 1 layers computed again from here on, the effective batch as before" in caplog.text
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(tight, key) == pytest.approx(history(plain, key), rel=1e-6)
    assert json.loads((tight / "finetune_args.json").read_text())["memory_plan"]["recomputed_layers"] == 1


def test_what_a_failed_pass_made_is_gone_before_the_next(tmp_path, base, prepared, monkeypatch):
    """Else there would be no more room than before, and memory would run out again."""
    held: list[weakref.ref] = []

    def fails(network, batch):
        if not held:
            return True
        assert held[0]() is None
        return False

    run_out = running_out(monkeypatch, fails)
    loss = Supervised.loss

    def watched(self, packed, batch):
        big = torch.ones(10)
        try:
            return loss(self, packed, batch)
        except RuntimeError:
            held.append(weakref.ref(big))
            raise

    monkeypatch.setattr(Supervised, "loss", watched)
    train(tmp_path, base, prepared, "out", **LORA, evaluation_strategy="disable")
    assert len(run_out) == len(held) == 1


def test_where_nothing_is_left_training_ends_with_what_to_do(tmp_path, base, monkeypatch):
    prepared = write_prepared(tmp_path / "p", random_rows(4, shortest=20, longest=21))
    failed = running_out(monkeypatch, lambda network, batch: True)
    with pytest.raises(OutOfMemory) as end:
        train(tmp_path, base, prepared, "out", **LORA)
    assert len(failed) == 5 and failed[0] > 60 and 30 < failed[1] < 45 and len(set(failed[2:])) == 1
    assert end.value.message.startswith(
        f"Out of memory in a forward or backward pass of {failed[-1]} tokens, of one row, all layers computed again. Lower max_seq_length"
    )


@pytest.mark.slow
def test_deepspeed_cannot_take_a_step_again(tmp_path, base, prepared, monkeypatch):
    run = run_of(tmp_path, base, prepared, **ZERO)
    state = TrainingState(forward_tokens=1024)
    monkeypatch.setattr(Trainer, "_accumulate", lambda *_: (_ for _ in ()).throw(RuntimeError(TEXT)))
    monkeypatch.setattr(type(run.stepper), "clear", lambda _: None)
    with pytest.raises(OutOfMemory, match=r"DeepSpeed can't take a step again: set apply_deepspeed false"):
        Trainer(run, state, History(run, state), None).step([])


def test_attention_weights_are_kept_no_more_once_layers_are_computed_again(tmp_path, base, monkeypatch):
    prepared = write_prepared(tmp_path / "p", random_rows(2, shortest=20, longest=21))
    run = run_of(tmp_path, base, prepared, **LORA)
    limits = [
        module.saved_attention_bytes for module in run.network.modules() if hasattr(module, "saved_attention_bytes")
    ]
    assert set(limits) <= {SAVED_BYTES}
    state = TrainingState(forward_tokens=1, head_chunk=CHUNK)
    failed = running_out(monkeypatch, lambda network, batch: recomputed_layers(network) < 2)
    run_trainer = Trainer(run, state, History(run, state), None)
    batch = pack([run.rows.row(0)])
    run.network.train()
    assert [run_trainer.step([batch]) for _ in range(2)] == [None, None] and len(failed) == 2
    assert run_trainer.step([batch]) is not None
    assert {module.saved_attention_bytes for module in run.network.modules()} == {0}
    assert (chunk_of(run.network), state.tightness) == (PART, Tightness(1, 2, PART))


def test_a_run_that_goes_on_keeps_what_it_had_to_give_up(tmp_path, base, prepared, monkeypatch):
    values = LORA | {"per_device_train_batch_size": 1, "max_steps": 4, "evaluation_strategy": "steps", "eval_steps": 2}
    running_out(monkeypatch, lambda network, batch: recomputed_layers(network) < 2)
    _, folder = train(tmp_path, base, prepared, **values)
    manifest = json.loads((folder / "checkpoint-2" / "manifest.json").read_text())
    assert manifest["memory_plan"] == {"forward_tokens": 1024, "recomputed_layers": 2, "head_chunk": PART}
    monkeypatch.undo()
    _, again = train(tmp_path, base, prepared, **values, resume_from_checkpoint=True)
    plan = json.loads((again / "finetune_args.json").read_text())["memory_plan"]
    assert (plan["recomputed_layers"], plan["head_chunk"]) == (2, PART)


def test_a_validation_that_memory_has_no_room_for_goes_on_in_smaller_passes(
    tmp_path, base, prepared, monkeypatch, caplog
):
    _, plain = train(tmp_path, base, prepared, "plain", **LORA)
    inner = Supervised.loss

    def loss(self, packed, batch):
        if not packed.network.training and len(batch.bounds) > 3:
            raise RuntimeError(TEXT)
        return inner(self, packed, batch)

    monkeypatch.setattr(Supervised, "loss", loss)
    with caplog.at_level("INFO"):
        _, tight = train(tmp_path, base, prepared, "tight", **LORA)
    assert "Memory ran out: 2 validation rows in a pass from here on" in caplog.text
    for key in ("eval_loss", "eval_mean_token_accuracy"):
        assert history(tight, key) == pytest.approx(history(plain, key), rel=1e-6)


def test_a_validation_row_that_memory_has_no_room_for_is_told(tmp_path, base, prepared, monkeypatch):
    inner = Supervised.loss

    def loss(self, packed, batch):
        if not packed.network.training:
            raise RuntimeError(TEXT)
        return inner(self, packed, batch)

    monkeypatch.setattr(Supervised, "loss", loss)
    with pytest.raises(OutOfMemory, match=r"Out of memory in a validation pass of one row\. Lower max_seq_length"):
        train(tmp_path, base, prepared, **LORA)


def test_a_checkpoint_that_memory_has_no_room_to_copy_is_written_while_training_waits(
    tmp_path, base, prepared, monkeypatch, caplog
):
    monkeypatch.setattr(saving, "has_room", lambda run, n_bytes: True)
    monkeypatch.setattr(Snapshot, "copied", lambda self: (_ for _ in ()).throw(RuntimeError(TEXT)))
    often = {"evaluation_strategy": "steps", "eval_steps": 3}  # the last isn't copied, as nothing trains meanwhile
    with caplog.at_level("INFO"):
        _, folder = train(tmp_path, base, prepared, **LORA, **often)
    assert "Training waits while checkpoint-3 is written" in caplog.text
    assert (folder / "checkpoint-6" / "manifest.json").exists()
