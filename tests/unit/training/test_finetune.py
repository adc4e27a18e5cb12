import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import matplotlib.image
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mafunzo.chat.network import load_network
from mafunzo.errors import FailedError, InvalidFile, InvalidParameter
from mafunzo.tracking import MetricLog, read_metrics
from mafunzo.training.arguments import TrainingArguments
from mafunzo.training.data_order import DataOrder
from mafunzo.training.finetune import finetune
from mafunzo.training.objectives.supervised import Supervised
from mafunzo.training.run import TrainingRequest
from tests.support.tiny_training import learnable_rows, random_rows, write_base, write_prepared

LORA = {
    "apply_lora": "true",
    "lora_r": 4,
    "lora_alpha": 8,
    "learning_rate": 0.02,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 8,
    "logging_steps": 1,
}
FULL = LORA | {"apply_lora": "false", "learning_rate": 0.003}
ZERO = FULL | {"apply_deepspeed": "true"}


@pytest.fixture
def base(tmp_path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def prepared(tmp_path) -> Path:
    return write_prepared(tmp_path / "prepared", learnable_rows(24), learnable_rows(8, seed=1))


def train(tmp_path: Path, base: Path, prepared: Path, name: str = "out", **values) -> tuple[dict, Path]:
    metrics = MetricLog(tmp_path / f"{name}.jsonl")
    arguments = TrainingArguments.from_values(values)
    results = finetune(TrainingRequest(base, prepared, tmp_path / name, arguments, metrics=metrics))
    return results, tmp_path / name


def logits(network) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.tensor([[5, 6, 7, 8, 20, 21, 22]])).logits.float()


def history(folder: Path, key: str) -> list[float]:
    state = json.loads((folder / "trainer_state.json").read_text())
    return [entry[key] for entry in state["log_history"] if key in entry]


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
def test_training_lowers_the_loss_on_held_out_rows(tmp_path, base, prepared, values, optim):
    _, folder = train(tmp_path, base, prepared, **values, optim=optim, num_train_epochs=3)
    losses = history(folder, "eval_loss")
    assert len(losses) == 3
    assert losses[-1] < losses[0] * 0.9


def test_an_adapter_folder_is_what_peft_loads(tmp_path, base, prepared):
    _, folder = train(tmp_path, base, prepared, **LORA)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)).eval()
    ours = load_network(base, folder)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(load_network(base, folder, merge=True)), logits(ours), rtol=1e-4, atol=1e-4)
    assert not list(folder.glob("model*.safetensors"))


def test_a_whole_model_folder_is_what_transformers_loads(tmp_path, base, prepared):
    _, folder = train(tmp_path, base, prepared, **FULL)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(load_network(folder)), logits(theirs))
    assert not torch.allclose(logits(theirs), logits(load_network(base)), atol=1e-2)


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
def test_the_output_has_everything_that_outlives_the_run(tmp_path, base, prepared, values):
    results, folder = train(tmp_path, base, prepared, **values)
    assert json.loads((folder / "all_results.json").read_text()) == results
    arguments = json.loads((folder / "finetune_args.json").read_text())
    assert arguments["learning_rate"] == values["learning_rate"]
    assert arguments["weight_decay"] == 0.0
    assert AutoTokenizer.from_pretrained(folder).chat_template
    picture = matplotlib.image.imread(folder / "loss.png")
    assert picture.shape[0] > 300 and picture.std() > 0.01
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 6 and state["best_metric"] == min(history(folder, "eval_loss"))
    assert (folder / "checkpoint-6").is_dir()
    pickles = [p for p in folder.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    assert not pickles


def test_metrics_have_hugging_face_s_names(tmp_path, base, prepared):
    train(tmp_path, base, prepared, **LORA)
    lines = list(read_metrics(tmp_path / "out.jsonl"))
    names = {name for line in lines for name in line}
    assert names >= {
        *("loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "mean_token_accuracy"),
        *("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"),
        *("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"),
    }
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


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


def test_each_checkpoint_that_is_saved_or_gone_on_from_is_a_metric(tmp_path, base, prepared):
    values = LORA | {"num_train_epochs": 3, "resume_from_checkpoint": "true"}
    _, whole = train(tmp_path, base, prepared, "whole", **values)
    again = tmp_path / "again"
    again.mkdir()
    (whole / "checkpoint-12").rename(again / "checkpoint-12")
    train(tmp_path, base, prepared, "again", **values)
    assert checkpoint_metrics(tmp_path / "whole.jsonl") == [("save", step, step) for step in (6, 12, 18)]
    assert checkpoint_metrics(tmp_path / "again.jsonl") == [("load", 12, 12), ("save", 18, 18)]
    assert history(again, "checkpoint_save_step") == history(again, "checkpoint_load_step") == []


def checkpoint_metrics(path: Path) -> list[tuple[str, int, int]]:
    """What was done with a checkpoint, its step, and the step that this was logged at."""
    names = {"checkpoint_save_step": "save", "checkpoint_load_step": "load"}
    return [(names[name], line[name], line["step"]) for line in read_metrics(path) for name in line if name in names]


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
def test_accumulated_forward_passes_equal_one_big_batch(tmp_path, base, values):
    """Rows of very different lengths: the mean is over all tokens of the step, not over the passes."""
    prepared = write_prepared(tmp_path / "p", random_rows(16, shortest=4, longest=40), random_rows(4, seed=9))
    shape = ("per_device_train_batch_size", "gradient_accumulation_steps")
    folders = [
        train(tmp_path, base, prepared, f"out{b}", **values | dict(zip(shape, (b, 8 // b), strict=True)))[1]
        for b in (8, 2, 1)
    ]
    for other in folders[1:]:
        for key in ("loss", "grad_norm", "eval_loss"):
            assert history(other, key) == pytest.approx(history(folders[0], key), rel=1e-4)


def test_packing_equals_not_packing(tmp_path, base, prepared, monkeypatch):
    _, packed = train(tmp_path, base, prepared, "packed", **LORA)
    monkeypatch.setattr("mafunzo.training.network._reason_not_to_pack", lambda network: "the test says so.")
    monkeypatch.setattr("mafunzo.training.network._head_if_equal", lambda network: None)
    _, alone = train(tmp_path, base, prepared, "alone", **LORA)
    assert json.loads((alone / "finetune_args.json").read_text())["rows_packed"] is False
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(alone, key) == pytest.approx(history(packed, key), rel=1e-4)


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
def test_deepspeed_takes_the_same_steps(tmp_path, base, prepared, values, caplog):
    """With clipping that bites, weight decay and accumulation, over whole and cut steps; so does the folder's content."""
    values = values | {
        "max_grad_norm": 0.1,
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 2,
    }
    _, plain = train(tmp_path, base, prepared, "plain", **values)
    with caplog.at_level("INFO"):
        _, zero = train(tmp_path, base, prepared, "zero", **values, apply_deepspeed="true")
    assert "DeepSpeed's ZeRO stage 2 takes the steps" in caplog.text
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(zero, key) == pytest.approx(history(plain, key), rel=1e-4)
    file = "adapter_model.safetensors" if values["apply_lora"] == "true" else "model.safetensors"
    ours, theirs = load_file(zero / file), load_file(plain / file)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5)


def test_recomputed_activations_give_the_same_losses(tmp_path, base, prepared):
    _, kept = train(tmp_path, base, prepared, "kept", **LORA)
    _, recomputed = train(tmp_path, base, prepared, "recomputed", **LORA, gradient_checkpointing="true")
    assert history(recomputed, "loss") == pytest.approx(history(kept, "loss"), rel=1e-5)


def test_batches_made_ahead_are_the_same_batches(tmp_path, base, prepared):
    _, here = train(tmp_path, base, prepared, "here", **LORA)
    _, ahead = train(tmp_path, base, prepared, "ahead", **LORA, dataloader_num_workers=2)
    assert history(ahead, "loss") == history(here, "loss")


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path, base, prepared):
    values = LORA | {"lora_dropout": 0.1, "enable_full_determinism": "true"}
    outputs = [train(tmp_path, base, prepared, n, **values, seed=s)[1] for n, s in (("a", 1), ("b", 1), ("c", 2))]
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in outputs]
    torch.use_deterministic_algorithms(False)
    assert weights[0] == weights[1] != weights[2]


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


@pytest.mark.parametrize(
    ("values", "at"),
    [
        pytest.param({"evaluation_strategy": "epoch", "num_train_epochs": 2}, [6, 12], id="epoch"),
        pytest.param({"evaluation_strategy": "steps", "eval_steps": 4}, [4, 6], id="steps"),
        pytest.param({"evaluation_strategy": "steps", "evaluation_steps_interval": 0.34}, [2, 4, 6], id="interval"),
        pytest.param({"evaluation_strategy": "epoch", "max_steps": 2}, [2], id="max_steps"),
        pytest.param({"evaluation_strategy": "disable"}, [], id="disable"),
    ],
)
def test_evaluation_happens_when_it_was_asked_for(tmp_path, base, prepared, values, at):
    _, folder = train(tmp_path, base, prepared, **LORA, **values)
    state = json.loads((folder / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == at
    saved = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    assert saved == (at or [6])


def test_without_validation_rows_the_last_weights_are_kept_and_that_is_said(tmp_path, base, caplog):
    prepared = write_prepared(tmp_path / "p", learnable_rows(8))
    with caplog.at_level("INFO"):
        _, folder = train(tmp_path, base, prepared, **LORA)
    assert "no validation rows" in caplog.text
    last = (folder / "checkpoint-2" / "adapter_model.safetensors").read_bytes()
    assert (folder / "adapter_model.safetensors").read_bytes() == last


def overfitting(tmp_path) -> Path:
    """Validation rows that contradict what is learned: the loss on them rises."""
    backwards = [(ids[::-1], [-100, -100, *ids[::-1][2:]]) for ids, _ in learnable_rows(8, seed=3)]
    return write_prepared(tmp_path / "p", learnable_rows(24), backwards)


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
def test_the_best_weights_are_the_result_not_the_last(tmp_path, base, values):
    _, folder = train(tmp_path, base, overfitting(tmp_path), **values, num_train_epochs=4)
    losses = history(folder, "eval_loss")
    best = 6 * (1 + losses.index(min(losses)))
    assert best != 24
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == f"checkpoint-{best}"
    name = "adapter_model.safetensors" if values is LORA else "model.safetensors"
    assert (folder / name).read_bytes() == (folder / f"checkpoint-{best}" / name).read_bytes()


def test_training_stops_early_when_the_loss_no_longer_falls(tmp_path, base):
    values = LORA | {"apply_early_stopping": "true", "early_stopping_patience": 2, "num_train_epochs": 20}
    _, folder = train(tmp_path, base, overfitting(tmp_path), **values)
    losses = history(folder, "eval_loss")
    assert len(losses) == losses.index(min(losses)) + 3 < 20


def test_only_so_many_checkpoints_are_kept_the_best_among_them(tmp_path, base):
    _, folder = train(tmp_path, base, overfitting(tmp_path), **LORA, num_train_epochs=5, save_total_limit=2)
    losses = history(folder, "eval_loss")
    best = 6 * (1 + losses.index(min(losses)))
    assert {path.name for path in folder.glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-30"}


def test_a_tuned_model_is_the_base_of_the_next(tmp_path, base, prepared):
    _, first = train(tmp_path, base, prepared, "first", **FULL)
    _, second = train(tmp_path, first, prepared, "second", **LORA)
    assert history(second, "loss")[0] < history(first, "loss")[0]


def test_in_16_bits_training_computes_in_bfloat16_with_float32_factors(tmp_path, base, prepared, monkeypatch):
    monkeypatch.setattr("mafunzo.device.precision.instruction_sets", lambda: frozenset({"avx512_bf16"}))
    for name, values in (("lora", LORA), ("full", FULL)):
        _, folder = train(tmp_path, base, prepared, name, **values, precision="16")
        assert json.loads((folder / "finetune_args.json").read_text())["computed_in"] == "bfloat16"
        losses = history(folder, "loss")
        assert losses[-1] < losses[0]
    assert load_network(tmp_path / "full").dtype == torch.bfloat16


def test_a_cpu_without_bfloat16_computes_in_float32_and_says_so(tmp_path, base, prepared, monkeypatch, caplog):
    monkeypatch.setattr("mafunzo.device.precision.instruction_sets", lambda: frozenset({"avx2"}))
    with caplog.at_level("INFO"):
        _, folder = train(tmp_path, base, prepared, **LORA, precision="16")
    assert "doesn't compute in bfloat16: float32 instead" in caplog.text
    assert json.loads((folder / "finetune_args.json").read_text())["computed_in"] == "float32"


def test_before_the_first_step_it_says_what_it_trains(tmp_path, base, prepared, caplog):
    with caplog.at_level("INFO"):
        train(tmp_path, base, prepared, **LORA, number_of_gpu_to_use_finetuning=4)
    text = caplog.text
    for words in (
        "LoRA r=4 on 14 layers",
        "Rows: 24 to train on",
        "Steps: 2 of 16 rows (4 x 4 accumulated), 1.00 epochs",
        "Computes in float32 on cpu",
        "Asked for 4 GPUs, one process trains (GPUs here: 0): 4 forward passes a step keep the effective batch",
        "trained pieces in [[ ]]: w",
        "Estimate: about",
    ):
        assert words in text


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


def test_all_faults_of_the_parameters_come_at_once(tmp_path, base, prepared):
    with pytest.raises(InvalidParameter) as caught:
        train(tmp_path, base, prepared, learning_rate=-1, optim="sgd", apply_lora="true")
    assert len(caught.value.faults) == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_not_prepared_is_refused(tmp_path, base):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidFile, match=r"no train\.parquet"):
        train(tmp_path, base, tmp_path / "empty", **LORA)


@pytest.mark.parametrize("values", [LORA, FULL, ZERO], ids=["LoRA", "full", "DeepSpeed"])
def test_going_on_from_a_checkpoint_gives_the_same_bits(tmp_path, base, prepared, values):
    """A second run finds the first one's checkpoint in an earlier attempt's folder; dropout tests the random state."""
    values = values | {"num_train_epochs": 3, "lora_dropout": 0.1, "resume_from_checkpoint": "true"}
    _, whole = train(tmp_path, base, prepared, "whole", **values)
    first = tmp_path / "1"
    first.mkdir()
    (whole / "checkpoint-6").rename(first / "checkpoint-6")
    arguments = TrainingArguments.from_values(values)
    request = TrainingRequest(base, prepared, tmp_path / "2", arguments, earlier=(first,))
    finetune(request)
    assert history(tmp_path / "2", "loss") == history(whole, "loss")
    name = "adapter_model.safetensors" if values["apply_lora"] == "true" else "model.safetensors"
    assert (tmp_path / "2" / name).read_bytes() == (whole / name).read_bytes()


def test_going_on_with_other_parameters_is_refused(tmp_path, base, prepared):
    values = LORA | {"resume_from_checkpoint": "true"}
    train(tmp_path, base, prepared, **values)
    with pytest.raises(InvalidParameter, match="other parameters"):
        train(tmp_path, base, prepared, **values | {"learning_rate": 0.01})


def test_when_memory_runs_out_the_batch_is_halved_and_the_result_is_the_same(
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
    values = LORA | {"auto_find_batch_size": "true", "per_device_eval_batch_size": 1}
    with caplog.at_level("INFO"):
        _, halved = train(tmp_path, base, prepared, "halved", **values)
    assert "2 rows in a forward pass from here on" in caplog.text
    assert history(halved, "loss") == pytest.approx(history(plain, "loss"), rel=1e-4)


def test_out_of_memory_says_what_to_lower(tmp_path, base):
    """A real allocation failure, in a process whose address space is limited."""
    prepared = write_prepared(tmp_path / "p", random_rows(4, shortest=20000, longest=20001))
    script = f"""
        import resource
        from pathlib import Path
        from mafunzo.errors import OutOfMemory
        from mafunzo.training.arguments import TrainingArguments
        from mafunzo.training.history import History
        from mafunzo.training.run import TrainingRequest, assemble
        from mafunzo.training.state import TrainingState
        from mafunzo.training.trainer import Trainer
        import torch
        torch.set_num_threads(1)
        arguments = TrainingArguments.from_values({{"apply_lora": "true", "per_device_train_batch_size": 4}})
        folders = Path({str(base)!r}), Path({str(prepared)!r}), Path({str(tmp_path / "out")!r})
        run = assemble(TrainingRequest(*folders, arguments))
        state = TrainingState()
        trainer = Trainer(run, state, History(run, state), None)
        run.network.train()
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
        try:
            trainer.step(next(trainer.batches()))
        except OutOfMemory as error:
            print(error.message)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert "Out of memory with per_device_train_batch_size 4. Lower it" in done.stdout, done.stderr


def test_the_flos_and_tokens_are_counted(tmp_path, base, prepared):
    results, folder = train(tmp_path, base, prepared, **LORA)
    tokens = sum(len(ids) for ids, _ in learnable_rows(24))
    assert results["num_tokens"] == tokens
    weights = load_network(base, folder).num_parameters(exclude_embeddings=True)
    assert results["total_flos"] == pytest.approx(6.0 * tokens * weights)
    assert math.isfinite(results["train_tokens_per_second"])
