"""Fine-tuning as a whole, and its loop: what a step is, whatever its forward passes, and what ends it."""

import json
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mafunzo.compute.model.loading import load_network
from mafunzo.compute.training import trainer
from mafunzo.compute.training.data_order import DataOrder
from mafunzo.compute.training.memory_plan import MOST_TOKENS
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.timing import Costs
from mafunzo.compute.training.trainer import estimated_after
from mafunzo.errors import FailedError, InvalidParameter
from mafunzo.tracking.metrics import read_metrics
from tests.support.tiny_training import learnable_rows, random_rows, write_prepared
from tests.support.training_run import FULL, LORA, history, train


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
def test_accumulated_forward_passes_equal_one_big_batch(tmp_path, base, values, monkeypatch):
    """Rows of very different lengths: the mean is over all tokens of the step, not over the passes."""
    prepared = write_prepared(tmp_path / "p", random_rows(16, shortest=4, longest=40), random_rows(4, seed=9))
    shape = ("per_device_train_batch_size", "gradient_accumulation_steps")
    folders = []
    for rows, tokens in ((8, 1024), (2, 64), (1, 1)):
        monkeypatch.setitem(MOST_TOKENS, "cpu", tokens)
        sizes = dict(zip(shape, (rows, 8 // rows), strict=True))
        folders.append(train(tmp_path, base, prepared, f"out{rows}", **values | sizes)[1])
    planned = [json.loads((folder / "finetune_args.json").read_text())["forward_tokens"] for folder in folders]
    assert planned == [1024, 64, 1]
    for other in folders[1:]:
        for key in ("loss", "grad_norm", "eval_loss"):
            assert history(other, key) == pytest.approx(history(folders[0], key), rel=1e-4)


def test_packing_equals_not_packing(tmp_path, base, prepared, monkeypatch):
    _, packed = train(tmp_path, base, prepared, "packed", **LORA)
    monkeypatch.setattr("mafunzo.compute.training.network._reason_not_to_pack", lambda network: "the test says so.")
    monkeypatch.setattr("mafunzo.compute.training.network._is_head_equal", lambda network: False)
    _, alone = train(tmp_path, base, prepared, "alone", **LORA)
    assert json.loads((alone / "finetune_args.json").read_text())["rows_packed"] is False
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(alone, key) == pytest.approx(history(packed, key), rel=1e-4)


def test_recomputed_activations_give_the_same_losses(tmp_path, base, prepared):
    _, kept = train(tmp_path, base, prepared, "kept", **LORA)
    _, recomputed = train(tmp_path, base, prepared, "recomputed", **LORA, gradient_checkpointing=True)
    assert history(recomputed, "loss") == pytest.approx(history(kept, "loss"), rel=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path, base, prepared):
    values = LORA | {"lora_dropout": 0.1, "enable_full_determinism": True}
    outputs = [train(tmp_path, base, prepared, n, **values, seed=s)[1] for n, s in (("a", 1), ("b", 1), ("c", 2))]
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in outputs]
    torch.use_deterministic_algorithms(False)
    assert weights[0] == weights[1] != weights[2]


def test_a_loss_that_is_not_a_number_stops_training(tmp_path, base):
    """A row of the third step holds a token whose embedding isn't a number."""
    weights = load_file(base / "model.safetensors")
    weights["model.embed_tokens.weight"][66] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    rows = learnable_rows(24)
    rows[DataOrder(24, 4, 1, 1, -1, seed=42).rows_of(2)[0]] = ([5, 6, 66, 7], [-100, -100, 66, 7])
    prepared = write_prepared(tmp_path / "p", rows, learnable_rows(4, seed=1))
    with pytest.raises(FailedError, match=r"The loss is nan at step 3 of 6 .*lower learning_rate"):
        train(tmp_path, base, prepared, **LORA)


def test_a_base_that_gives_no_number_is_named_as_the_cause(tmp_path, base, prepared):
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FailedError, match=r"at step 1 .* the base model's own: check its weights"):
        train(tmp_path, base, prepared, **LORA)


def test_when_memory_runs_out_forward_passes_are_halved_and_the_result_is_the_same(
    tmp_path, base, prepared, monkeypatch, caplog
):
    _, plain = train(tmp_path, base, prepared, "plain", **LORA)
    inner = Supervised.loss

    def short_of_memory(self, packed, batch):
        if len(batch.bounds) > 3:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            )
        return inner(self, packed, batch)

    monkeypatch.setattr(Supervised, "loss", short_of_memory)
    values = LORA | {"auto_find_batch_size": True, "per_device_eval_batch_size": 1}
    with caplog.at_level("INFO"):
        _, halved = train(tmp_path, base, prepared, "halved", **values)
    assert "tokens in a forward pass from here on, the effective batch as before" in caplog.text
    assert history(halved, "loss") == pytest.approx(history(plain, "loss"), rel=1e-4)


@pytest.mark.slow
def test_out_of_memory_makes_passes_smaller_and_says_what_to_lower_in_the_end(tmp_path, base):
    """Real allocation failures, in a process whose address space is limited."""
    prepared = write_prepared(tmp_path / "p", random_rows(4, shortest=20000, longest=20001))
    script = f"""
        import resource
        from pathlib import Path
        from mafunzo.errors import OutOfMemory
        from mafunzo.compute.training.arguments import TrainingArguments
        from mafunzo.compute.training.state import History
        from mafunzo.compute.training.data_order import load_steps
        from mafunzo.compute.training.run import TrainingRequest, assemble
        from mafunzo.compute.training.state import TrainingState
        from mafunzo.compute.training.trainer import Trainer
        import torch
        torch.set_num_threads(1)
        arguments = TrainingArguments.from_values({{"apply_lora": True, "per_device_train_batch_size": 4}})
        folders = Path({str(base)!r}), Path({str(prepared)!r}), Path({str(tmp_path / "out")!r})
        run = assemble(TrainingRequest(*folders, arguments))
        state = TrainingState(forward_tokens=100_000, head_chunk=256)
        trainer = Trainer(run, state, History(run, state), None)
        run.network.train()
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
        try:
            while trainer.step(next(load_steps(run.rows, run.order, 0, state.forward_tokens, 0))) is None:
                print(state.tightened[-1])
        except OutOfMemory as error:
            print(error.message)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert "after step 0: up to 40,001 tokens in a forward pass\n" in done.stdout, done.stderr
    assert "after step 0: 2 layers computed again, logits of 32 positions at a time\n" in done.stdout
    assert "Out of memory in a forward or backward pass of 20,000 tokens, of one row" in done.stdout
    assert "Lower max_seq_length" in done.stdout


@pytest.mark.parametrize("schedule", ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant"])
def test_the_learning_rate_follows_its_schedule(tmp_path, base, prepared, schedule):
    _, folder = train(tmp_path, base, prepared, **LORA, lr_scheduler_type=schedule)
    rates = history(folder, "learning_rate")
    assert rates[0] == pytest.approx(0.02)
    assert rates[-1] == pytest.approx(0.02) if schedule == "constant" else rates[-1] < 0.01


@pytest.mark.parametrize("warmup", [{"warmup_steps": 3}, {"warmup_ratio": 0.5}])
def test_the_learning_rate_rises_in_the_warm_up(tmp_path, base, prepared, warmup):
    _, folder = train(tmp_path, base, prepared, **LORA, **warmup, lr_scheduler_type="constant_with_warmup")
    assert history(folder, "learning_rate") == pytest.approx([0.0, 0.02 / 3, 0.04 / 3, 0.02, 0.02, 0.02])


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param({"optim": "adamw_torch"}, id="AdamW"),
        pytest.param({"optim": "adafactor"}, id="Adafactor"),
        pytest.param({"optim": "sgd", "momentum": 0.9, "learning_rate": 0.2}, id="SGD"),
        pytest.param({"optim": "muon", "learning_rate": 0.05}, id="Muon"),
    ],
)
def test_training_lowers_the_loss_on_held_out_rows(tmp_path, base, prepared, values, optimizer):
    _, folder = train(tmp_path, base, prepared, **{**values, **optimizer}, num_train_epochs=3)
    losses = history(folder, "eval_loss")
    assert len(losses) == 3
    assert losses[-1] < losses[0] * 0.9


def test_with_no_adapter_trained_yet_the_first_loss_is_the_base_s(tmp_path, base):
    rows = random_rows(4)
    prepared = write_prepared(tmp_path / "p", rows)
    _, folder = train(tmp_path, base, prepared, **LORA)
    network = AutoModelForCausalLM.from_pretrained(base)
    total, count = 0.0, 0
    for ids, labels in rows:
        shifted = torch.tensor(labels[1:])
        out = network(torch.tensor([ids])).logits[0, :-1].detach()
        total += float(torch.nn.functional.cross_entropy(out, shifted, reduction="sum"))
        count += int((shifted != -100).sum())
    assert history(folder, "loss")[0] == pytest.approx(total / count, rel=1e-5)


def test_a_tuned_model_is_the_base_of_the_next(tmp_path, base, prepared):
    _, first = train(tmp_path, base, prepared, "first", **FULL)
    _, second = train(tmp_path, first, prepared, "second", **LORA)
    assert history(second, "loss")[0] < history(first, "loss")[0]


def test_in_16_bits_training_computes_in_bfloat16_with_float32_factors(tmp_path, base, prepared, monkeypatch):
    monkeypatch.setattr("mafunzo.compute.device.precision.instruction_sets", lambda: frozenset({"avx512_bf16"}))
    for name, values in (("lora", LORA), ("full", FULL)):
        _, folder = train(tmp_path, base, prepared, name, **values, precision="16")
        assert json.loads((folder / "finetune_args.json").read_text())["computed_in"] == "bfloat16"
        losses = history(folder, "loss")
        assert losses[-1] < losses[0]
    assert load_network(tmp_path / "full").dtype == torch.bfloat16


def test_all_faults_of_the_parameters_come_at_once(tmp_path, base, prepared):
    with pytest.raises(InvalidParameter) as caught:
        train(tmp_path, base, prepared, max_steps=0, lora_target_modules="q_proj")
    assert len(caught.value.faults) == 2
    assert not (tmp_path / "out").exists()


def test_the_time_that_is_left_counts_evaluation_and_saving(tmp_path, base, prepared, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "rough_costs", lambda run: Costs(1e-9, 0.0, 1000.0, 100_000.0))
    train(tmp_path, base, prepared, **LORA)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('{"event"')]
    events = [json.loads(line) for line in lines if '"train"' in line]
    tokens = sum(len(ids) for ids, _ in learnable_rows(8, seed=1))
    assert events[0]["eta_s"] > 100_000 + 1000 * tokens  # by the ratio of what was expected
    assert events[-1]["done"] == 6


def test_a_run_records_what_it_was_estimated_to_take_beside_what_it_took(tmp_path, base, prepared, caplog):
    with caplog.at_level("INFO"):
        results, _ = train(tmp_path, base, prepared, **LORA)
    lines = list(read_metrics(tmp_path / "out.jsonl"))
    (estimated,) = [line for line in lines if "estimated_train_runtime" in line]
    assert estimated["step"] == 3 and estimated["estimated_train_runtime"] > 0
    assert re.search(r"Estimate: about \d+ s in all, by the steps so far", caplog.text)
    (measured,) = [line for line in lines if "train_runtime" in line]
    assert measured["peak_memory_bytes"] == results["peak_memory_bytes"] > 2**20


@pytest.mark.parametrize(("total", "step"), [(1, 1), (2, 1), (5, 2), (6, 3), (1000, 3)])
def test_a_run_is_estimated_once_it_is_under_way(total, step):
    assert estimated_after(total) == step
