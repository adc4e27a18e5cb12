import json
from pathlib import Path

import pytest

from mafunzo.compute.components import finetune
from mafunzo.tracking.metrics import read_metrics
from mafunzo.tracking.step_folder import earlier_outputs
from tests.support.component_line import complete, refused
from tests.support.tiny_training import learnable_rows, write_base, write_prepared


@pytest.fixture
def folders(tmp_path, monkeypatch) -> dict[str, Path]:
    base = write_base(tmp_path / "base")
    prepared = write_prepared(tmp_path / "prepared", learnable_rows(12), learnable_rows(4, seed=1))
    step = tmp_path / "jobs" / "finetune" / "1"
    step.mkdir(parents=True)
    monkeypatch.setenv("MAFUNZO_STEP_FOLDER", str(step))
    return {"model": base, "prepared": prepared, "step": step, "output": step / "outputs" / "pytorch_model_folder"}


def arguments(folders: dict[str, Path], *options: str) -> list[str]:
    argv = ["--model", folders["model"], "--prepared", folders["prepared"]]
    return [str(argument) for argument in [*argv, "--pytorch_model_folder", folders["output"], *options]]


def test_it_leaves_an_adapter_and_metrics_and_tells_its_progress(folders, capsys):
    options = ("--apply_lora", "true", "--per_device_train_batch_size", "4", "--logging_steps", "1")
    complete(finetune, arguments(folders, *options))
    assert (folders["output"] / "adapter_model.safetensors").exists()
    lines = list(read_metrics(folders["step"] / "metrics.jsonl"))
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    progress = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"event"')]
    assert {event["phase"] for event in progress} == {"train", "evaluate"}
    assert all({"loss", "tokens_per_s", "eta_s"} <= set(event) for event in progress if event["phase"] == "train")


def test_all_faults_are_told_before_anything_is_loaded(folders):
    (folders["model"] / "model.safetensors").unlink()  # which would be the fault, were it loaded
    options = ("--optim", "lion", "--learning_rate", "0", "--metric_for_best_model", "f1")
    assert refused(finetune, arguments(folders, *options)) == 2
    error = json.loads((folders["step"] / "error.json").read_text())
    assert error["code"] == "invalid_parameter" and len(error["faults"]) == 3
    assert not folders["output"].exists()


def test_a_deepspeed_configuration_is_checked_before_anything_is_loaded(folders, tmp_path):
    (file := tmp_path / "zero.json").write_text('{"gradient_clipping": 2, "zero_optimization": {"stag": 2}}')
    options = ("--apply_deepspeed", "true", "--deepspeed")
    assert refused(finetune, arguments(folders, *options, str(file))) == 2
    assert len(json.loads((folders["step"] / "error.json").read_text())["faults"]) == 2
    assert refused(finetune, arguments(folders, *options, str(tmp_path))) == 2
    assert "Name a JSON file" in json.loads((folders["step"] / "error.json").read_text())["message"]
    assert not folders["output"].exists()


def test_pickled_weights_are_refused(folders):
    (folders["model"] / "model.safetensors").rename(folders["model"] / "pytorch_model.bin")
    assert refused(finetune, arguments(folders)) == 3
    assert json.loads((folders["step"] / "error.json").read_text())["code"] == "unsafe_model"


def test_an_attempt_finds_the_outputs_of_the_earlier_ones(tmp_path):
    for attempt in ("1", "2", "10", "notes"):
        (tmp_path / attempt).mkdir()
    output = tmp_path / "10" / "outputs" / "pytorch_model_folder"
    expected = tuple(tmp_path / attempt / "outputs" / "pytorch_model_folder" for attempt in ("2", "1"))
    assert earlier_outputs(output) == expected
    assert earlier_outputs(tmp_path / "by hand" / "out") == ()
