"""Numbers over steps by Hugging Face's names, checkpoints that a run leaves behind, and going on from them."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch

from mafunzo.compute.device.precision import Precision
from mafunzo.compute.model.folder import sha256
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.checkpoint import _sha256_of, verify
from mafunzo.compute.training.memory_plan import MOST_TOKENS
from mafunzo.compute.training.run import TrainingRequest
from mafunzo.compute.training.state import _checkpoint_of
from mafunzo.compute.training.trainer import finetune
from mafunzo.errors import InvalidParameter
from mafunzo.tracking.metrics import MetricLog, read_metrics
from tests.support.tiny_training import learnable_rows
from tests.support.training_run import FULL, LORA, ZERO, history, overfitting, train


def test_each_checkpoint_that_is_saved_or_gone_on_from_is_a_metric(tmp_path, base, prepared):
    values = LORA | {"num_train_epochs": 3, "resume_from_checkpoint": True}
    _, whole = train(tmp_path, base, prepared, "whole", **values)
    again = tmp_path / "again"
    again.mkdir()
    (whole / "checkpoint-12").rename(again / "checkpoint-12")
    train(tmp_path, base, prepared, "again", **values)
    assert checkpoint_metrics(tmp_path / "whole.jsonl") == [("save", step, step) for step in (6, 12, 18)]
    assert checkpoint_metrics(tmp_path / "again.jsonl") == [("load", 12, 12), ("save", 18, 18)]
    assert history(again, "checkpoint_save_step") == history(again, "checkpoint_load_step") == []


def test_a_rank_on_another_machine_than_the_first_finds_the_checkpoint_among_those_of_earlier_attempts(
    tmp_path, base, prepared
):
    values = LORA | {"max_steps": 2, "evaluation_strategy": "disable"}
    _, first = train(tmp_path, base, prepared, "1", **values)
    arguments = TrainingArguments.from_values(values)
    request = TrainingRequest(base, prepared, tmp_path / "2", arguments, earlier=(tmp_path / "none", first))
    assert _checkpoint_of(request, 2) == first / "checkpoint-2"
    shutil.copytree(first / "checkpoint-2", tmp_path / "2" / "checkpoint-2")
    assert _checkpoint_of(request, 2) == tmp_path / "2" / "checkpoint-2"
    (tmp_path / "2" / "checkpoint-2" / "rng.safetensors").unlink()
    assert _checkpoint_of(request, 2) == first / "checkpoint-2"


def checkpoint_metrics(path: Path) -> list[tuple[str, int, int]]:
    """What was done with a checkpoint, its step, and the step that this was logged at."""
    names = {"checkpoint_save_step": "save", "checkpoint_load_step": "load"}
    return [(names[name], line[name], line["step"]) for line in read_metrics(path) for name in line if name in names]


def test_only_so_many_checkpoints_are_kept_the_best_among_them(tmp_path, base):
    _, folder = train(tmp_path, base, overfitting(tmp_path), **LORA, num_train_epochs=5, save_total_limit=2)
    losses = history(folder, "eval_loss")
    best = 6 * (1 + losses.index(min(losses)))
    assert {path.name for path in folder.glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-30"}


@pytest.mark.parametrize(
    "values",
    [
        LORA,
        LORA | {"neftune_noise_alpha": 5.0},
        pytest.param(FULL, marks=pytest.mark.slow),
        pytest.param(ZERO, marks=pytest.mark.slow),
    ],
    ids=["LoRA", "with noise", "full", "DeepSpeed"],
)
def test_going_on_from_a_checkpoint_gives_the_same_bits(tmp_path, base, prepared, values):
    """A second run finds the first one's checkpoint in an earlier attempt's folder; dropout tests the random state."""
    values = values | {"num_train_epochs": 3, "lora_dropout": 0.1, "resume_from_checkpoint": True}
    _, whole = train(tmp_path, base, prepared, "whole", **values)
    first = tmp_path / "1"
    first.mkdir()
    (whole / "checkpoint-6").rename(first / "checkpoint-6")
    arguments = TrainingArguments.from_values(values)
    request = TrainingRequest(base, prepared, tmp_path / "2", arguments, earlier=(first,))
    finetune(request)
    assert history(tmp_path / "2", "loss") == history(whole, "loss")
    name = "adapter_model.safetensors" if values["apply_lora"] else "model.safetensors"
    assert (tmp_path / "2" / name).read_bytes() == (whole / name).read_bytes()


def test_going_on_takes_the_loss_scale_along(tmp_path, base, prepared, monkeypatch):
    """As float16 needs it; here it grows with every step, so that one that began anew would show."""
    scaled = Precision(torch.float32, torch.float32, needs_scaler=True)
    monkeypatch.setattr("mafunzo.compute.training.run.choose", lambda *_: scaled)
    grown = functools.partial(torch.amp.GradScaler, init_scale=2.0, growth_interval=1)
    monkeypatch.setattr(torch.amp, "GradScaler", grown)
    whole, second = tmp_path / "whole", tmp_path / "second"
    train(tmp_path, base, prepared, "whole", **LORA, num_train_epochs=3)
    first = tmp_path / "1"
    first.mkdir()
    (whole / "checkpoint-6").rename(first / "checkpoint-6")
    going_on(tmp_path, base, prepared, first, **LORA, num_train_epochs=3)
    states = [json.loads((folder / "trainer_state.json").read_text())["mafunzo"] for folder in (whole, second)]
    assert [state["scaler"]["scale"] for state in states] == [2.0 * 2**18] * 2
    assert history(second, "loss") == history(whole, "loss")


def going_on(tmp_path: Path, base: Path, prepared: Path, first: Path, **values) -> Path:
    """Train as the second attempt of a step, whose first attempt left `first`."""
    metrics = MetricLog(tmp_path / "second.jsonl")
    arguments = TrainingArguments.from_values(values)
    finetune(TrainingRequest(base, prepared, tmp_path / "second", arguments, metrics=metrics, earlier=(first,)))
    return tmp_path / "second"


def test_an_attempt_goes_on_from_an_earlier_one_without_being_asked_to(tmp_path, base, prepared):
    _, first = train(tmp_path, base, prepared, **LORA, num_train_epochs=2)
    second = going_on(tmp_path, base, prepared, first, **LORA, num_train_epochs=2)
    assert checkpoint_metrics(tmp_path / "second.jsonl") == [("load", 12, 12)]
    assert history(second, "loss") == history(first, "loss")
    assert {path.name for path in second.glob("checkpoint-*")} == {"checkpoint-6", "checkpoint-12"}


def test_the_metrics_of_an_attempt_begin_where_the_run_did(tmp_path, base, prepared):
    _, first = train(tmp_path, base, prepared, **LORA)
    going_on(tmp_path, base, prepared, first, **LORA)
    first_lines, second_lines = (list(read_metrics(tmp_path / name)) for name in ("out.jsonl", "second.jsonl"))
    for key in ("loss", "eval_loss", "grad_norm"):
        assert values_by_step(second_lines, key) == values_by_step(first_lines, key)


def values_by_step(lines: list[dict], key: str) -> list[tuple[int, float]]:
    return [(line["step"], line[key]) for line in lines if key in line]


def test_an_attempt_goes_on_from_an_older_checkpoint_where_the_newest_is_damaged(tmp_path, base, prepared):
    _, first = train(tmp_path, base, prepared, **LORA, num_train_epochs=3)
    (first / "checkpoint-18" / "optimizer.safetensors").write_bytes(b"cut")
    second = going_on(tmp_path, base, prepared, first, **LORA, num_train_epochs=3)
    assert checkpoint_metrics(tmp_path / "second.jsonl") == [("load", 12, 12), ("save", 18, 18)]
    name = "adapter_model.safetensors"
    assert (second / name).read_bytes() == (first / name).read_bytes()
    assert not verify(second / "checkpoint-18")


def test_an_attempt_whose_best_checkpoint_is_damaged_goes_on_from_before_it(tmp_path, base):
    """The best weights are the result: without them the run would end in an error, after all its steps."""
    prepared = overfitting(tmp_path)
    values = LORA | {"num_train_epochs": 4, "evaluation_strategy": "steps", "eval_steps": 3}
    _, first = train(tmp_path, base, prepared, **values)
    best = json.loads((first / "trainer_state.json").read_text())["best_global_step"]
    assert best < 24
    (first / f"checkpoint-{best}" / "manifest.json").unlink()
    second = going_on(tmp_path, base, prepared, first, **values)
    name = "adapter_model.safetensors"
    assert (second / name).read_bytes() == (first / name).read_bytes()


def test_an_attempt_leaves_out_what_is_not_of_its_run_and_says_so(tmp_path, base, prepared, caplog):
    """Parameters of a step never change between attempts, but their meaning may, with another version."""
    _, first = train(tmp_path, base, prepared, **LORA)
    going_on(tmp_path, base, prepared, first, **LORA | {"weight_decay": 0.01})
    assert checkpoint_metrics(tmp_path / "second.jsonl") == [("save", 6, 6)]
    assert "is of other parameters or rows, as of another version: it is left out" in caplog.text


def test_an_output_folder_with_checkpoints_that_are_not_to_be_gone_on_from_is_refused(tmp_path, base, prepared):
    train(tmp_path, base, prepared, **LORA)
    with pytest.raises(InvalidParameter, match=r"checkpoint-6 of an earlier run\. Set resume_from_checkpoint true"):
        train(tmp_path, base, prepared, **LORA)


def test_damaged_checkpoints_in_the_output_folder_are_not_taken_for_the_newest(tmp_path, base, prepared):
    values = LORA | {"resume_from_checkpoint": True, "num_train_epochs": 3, "save_total_limit": 1}
    _, folder = train(tmp_path, base, prepared, **values)
    (folder / "checkpoint-18").rename(folder / "checkpoint-99")
    (folder / "checkpoint-99" / "manifest.json").unlink()
    train(tmp_path, base, prepared, **values)
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-18"}


def receipt(folder: Path) -> str | None:
    return json.loads((folder / "finetune_args.json").read_text()).get("resumed")


def test_the_receipt_says_that_a_run_equals_an_uninterrupted_one(tmp_path, base, prepared):
    _, first = train(tmp_path, base, prepared, **LORA)
    assert receipt(first) is None
    second = going_on(tmp_path, base, prepared, first, **LORA)
    assert receipt(second) == "after step 6: bit-identical to an uninterrupted run"


def rewrite_manifest(folder: Path, **values) -> None:
    manifest = json.loads((folder / "manifest.json").read_text()) | values
    manifest["sha256"] = _sha256_of({name: value for name, value in manifest.items() if name != "sha256"})
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_receipt_says_why_it_does_not_and_goes_on_saying_so(tmp_path, base, prepared, monkeypatch):
    """Fewer threads than before, other code, and less memory."""
    _, first = train(tmp_path, base, prepared, **LORA, num_train_epochs=3)
    for step in (12, 18):
        shutil.rmtree(first / f"checkpoint-{step}")
    code = json.loads((first / "checkpoint-6" / "manifest.json").read_text())["code"] | {"torch": "1.0"}
    rewrite_manifest(first / "checkpoint-6", threads=1000, code=code)
    monkeypatch.setitem(MOST_TOKENS, "cpu", 16)
    second = going_on(tmp_path, base, prepared, first, **LORA, num_train_epochs=3)
    words = (
        f"equal within tolerance to an uninterrupted run, since torch was 1.0 and is {torch.__version__}; the number of threads "
        f"was 1000 and is {torch.get_num_threads()}; memory has room for 16 tokens in a forward pass, of 1,024 before"
    )
    assert receipt(second) == f"after step 6: {words}"
    (tmp_path / "second").rename(tmp_path / "once more")
    third = going_on(tmp_path, base, prepared, tmp_path / "once more", **LORA, num_train_epochs=3)
    assert receipt(third) == f"after step 6, 18: {words}"


def test_as_many_threads_are_used_as_before(tmp_path, base, prepared, monkeypatch):
    _, first = train(tmp_path, base, prepared, **LORA)
    rewrite_manifest(first / "checkpoint-6", threads=2)
    threads = 5
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    def set_threads(number: int) -> None:
        nonlocal threads
        threads = number

    monkeypatch.setattr(torch, "set_num_threads", set_threads)
    second = going_on(tmp_path, base, prepared, first, **LORA)
    assert receipt(second) == "after step 6: bit-identical to an uninterrupted run"
    assert threads == 2


def test_the_manifest_names_what_decides_the_bits(tmp_path, base, prepared):
    _, folder = train(tmp_path, base, prepared, **LORA)
    manifest = json.loads((folder / "checkpoint-6" / "manifest.json").read_text())
    assert set(manifest) == {
        *("files", "configuration", "code", "machine", "memory_plan", "threads", "processes", "sha256"),
        "strategy",
    }
    assert manifest["configuration"]["learning_rate"] == LORA["learning_rate"]
    assert set(manifest["code"]) == {"mafunzo", "sha256", "torch", "transformers"}
    assert manifest["memory_plan"] == {"forward_tokens": 1024, "recomputed_layers": 0, "head_chunk": 256}
    assert (manifest["threads"], manifest["processes"]) == (torch.get_num_threads(), 1)
    assert manifest["strategy"] == "ddp"


def test_a_run_that_had_stopped_early_does_not_go_on(tmp_path, base):
    prepared = overfitting(tmp_path)
    values = LORA | {"apply_early_stopping": True, "early_stopping_patience": 2, "num_train_epochs": 20}
    _, first = train(tmp_path, base, prepared, **values)
    second = going_on(tmp_path, base, prepared, first, **values)
    assert history(second, "eval_loss") == history(first, "eval_loss")


def test_going_on_with_other_parameters_is_refused(tmp_path, base, prepared):
    values = LORA | {"resume_from_checkpoint": True}
    train(tmp_path, base, prepared, **values)
    with pytest.raises(InvalidParameter, match="other parameters"):
        train(tmp_path, base, prepared, **values | {"weight_decay": 0.01})


def test_deepspeed_s_own_parts_of_the_state_which_earlier_versions_left_are_not_gone_on_from(
    tmp_path, base, prepared, caplog
):
    _, first = train(tmp_path, base, prepared, **LORA)
    for folder in first.glob("checkpoint-*"):
        manifest = json.loads((folder / "manifest.json").read_text())
        state = json.loads((folder / "trainer_state.json").read_text())
        state["mafunzo"]["values"]["apply_deepspeed"] = "true"
        (folder / "trainer_state.json").write_text(json.dumps(state))
        files = manifest["files"] | {"trainer_state.json": sha256(folder / "trainer_state.json")}
        (folder / "manifest.json").write_text(json.dumps({"files": files}))
    going_on(tmp_path, base, prepared, first, **LORA)
    assert "is of other parameters or rows, as of another version: it is left out" in caplog.text


@pytest.mark.parametrize(
    "schedule",
    ["cosine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linear", "polynomial", "constant"))],
)
def test_more_epochs_and_another_learning_rate_are_gone_on_with_on_their_own_schedule(
    tmp_path, base, prepared, schedule, caplog
):
    """The rates are those of a run that had them from the start; what was trained stays."""
    values = LORA | {"lr_scheduler_type": schedule}
    new = values | {"num_train_epochs": 3, "learning_rate": 0.01}
    _, first = train(tmp_path, base, prepared, "first", **values)
    _, whole = train(tmp_path, base, prepared, "whole", **new)
    with caplog.at_level("INFO"):
        second = going_on(tmp_path, base, prepared, first, **new)
    assert history(second, "loss")[:6] == history(first, "loss")
    assert history(second, "learning_rate")[:6] == history(first, "learning_rate")
    assert history(second, "learning_rate")[6:] == history(whole, "learning_rate")[6:]
    changes = "num_train_epochs was 1 and is 3; learning_rate was 0.02 and is 0.01"
    assert f"{changes}: the learning rate's schedule is computed for all 18 steps anew" in caplog.text
    assert receipt(second) == f"after step 6 with other values, which no uninterrupted run has: {changes}"


def test_more_steps_are_gone_on_with_and_fewer_than_are_done_refused(tmp_path, base, prepared):
    _, first = train(tmp_path, base, prepared, **LORA, max_steps=4)
    second = going_on(tmp_path, base, prepared, first, **LORA, max_steps=8)
    assert len(history(second, "loss")) == 8
    (tmp_path / "second").rename(tmp_path / "eight")
    told = (
        r"checkpoint-8 is of step 8, and training would end after step 5 \(max_steps was 8 and is 5\)\. Give more steps"
    )
    with pytest.raises(InvalidParameter, match=told):
        going_on(tmp_path, base, prepared, tmp_path / "eight", **LORA, max_steps=5)


def test_what_changes_no_result_may_be_another_and_the_receipt_is_the_same(tmp_path, base, prepared):
    _, first = train(tmp_path, base, prepared, **LORA, num_train_epochs=2)
    shutil.rmtree(first / "checkpoint-12")
    values = LORA | {"num_train_epochs": 2, "save_interval_s": 0, "max_memory_gb": 100, "auto_find_batch_size": True}
    second = going_on(tmp_path, base, prepared, first, **values)
    assert receipt(second) == "after step 6: bit-identical to an uninterrupted run"


# What `trainer_state.json` of a checkpoint of the first release holds under `mafunzo`: words of the table of parameters.
VALUES_OF_RELEASE_0_1 = {
    "number_of_gpu_to_use_finetuning": 1,
    "trust_remote_code": "false",
    "apply_lora": "true",
    "lora_alpha": 8,
    "lora_r": 4,
    "lora_dropout": 0.0,
    "num_train_epochs": 1,
    "max_steps": -1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": -1,
    "optim": "adamw_torch",
    "learning_rate": 0.02,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-08,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "precision": "32",
    "seed": 42,
    "enable_full_determinism": "false",
    "evaluation_strategy": "epoch",
    "evaluation_steps_interval": 0.0,
    "eval_steps": 500,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "metric_for_best_model": "loss",
    "apply_early_stopping": "false",
    "early_stopping_patience": 1,
    "early_stopping_threshold": 0.0,
    "apply_deepspeed": "false",
    "deepspeed_stage": "2",
    "lora_target_modules": None,
    "warmup_ratio": 0.0,
    "gradient_checkpointing": "false",
}


def test_a_checkpoint_holds_the_state_in_the_form_of_earlier_versions(tmp_path, base, prepared):
    _, folder = train(tmp_path, base, prepared, **LORA)
    record = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())["mafunzo"]
    rows = learnable_rows(24)
    n_tokens = sum(len(ids) for ids, _ in rows)
    assert record["values"] == VALUES_OF_RELEASE_0_1
    assert record["rows"] == [24, n_tokens, n_tokens - 2 * 24]
    assert list(record) == ["values", "rows", "state", "scaler"] and record["scaler"] == {}
    assert record["state"]["since_log"] == {"loss": 0.0, "steps": 0, "correct": 0, "targets": 0}
    assert set(record["state"]) == {
        *("step", "tokens", "forward_tokens", "loss_sum", "since_log", "best_loss", "best_step"),
        *("evaluations_without_gain", "seconds", "history", "resumed_at", "differences", "changes"),
        *("head_chunk", "recomputed_layers", "tightened", "loss_blocks", "diverged_at", "lowest_saved"),
    }


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
