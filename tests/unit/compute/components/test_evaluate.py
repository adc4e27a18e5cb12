"""The component's command line: argv and folders in, folder out; once as a process, as a step runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.compute.components import evaluate
from tests.support.component_line import complete, refused
from tests.support.tiny_evaluation import Folders, make_folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("evaluate"))


def arguments(folders: Folders, step: Path, *options: str) -> list[str]:
    argv = ["--model", folders.base, "--tuned", folders.tuned, "--prepared", folders.prepared]
    argv += ["--evaluation_result", step / "out", "--max_new_tokens", "4"]
    return [str(argument) for argument in [*argv, "--forgetting_prompts", "12", "--generation_rows", "6", *options]]


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a step, as its environment names it."""
    (folder := tmp_path / "step").mkdir()
    monkeypatch.setenv("MAFUNZO_STEP_FOLDER", str(folder))
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_tuned_model_that_learned_passes_the_gate_and_leaves_everything_behind(
    folders: Folders, step: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(evaluate, arguments(folders, step, "--gate", "better"))
    out = step / "out"
    metrics = read(out / "evaluationResult" / "metrics.json")
    assert metrics["comparisons"]["loss"]["is_better"] is True
    assert metrics["loss"] == metrics["comparisons"]["loss"]["tuned"]["value"]
    assert metrics["forgetting"]["prompts"] == 12
    assert len((out / "samples.jsonl").read_text().splitlines()) == 6
    assert {path.name for path in out.glob("*.png")} == {"loss_by_row.png", "metrics.png", "forgetting.png"}
    assert "http" not in (out / "report.html").read_text().split("<main>")[0]
    reference = read(out / "serving_reference.json")
    assert len(reference["rows"]) == 4 and reference["dtype"] == "float32"
    (line,) = [json.loads(text) for text in (step / "metrics.jsonl").read_text().splitlines()]
    assert line["tuned_loss"] == line["eval_loss"] < line["base_loss"]
    told = capsys.readouterr().out
    assert "Perplexity" in told and '"event": "progress"' in told
    assert not list(out.rglob("*.f16"))


def test_a_model_that_is_not_better_is_refused_after_the_report_is_written(folders: Folders, step: Path) -> None:
    base_only = Folders(folders.base, folders.base, folders.prepared)
    assert refused(evaluate, arguments(base_only, step, "--gate", "better", "--gate_metric", "token_accuracy")) == 3
    error = read(step / "error.json")
    assert error["code"] == "gate_not_passed"
    assert "token_accuracy" in error["faults"][0] and "gate is better" in error["faults"][0]
    assert (step / "out" / "report.html").exists()


def test_all_faults_of_the_configuration_are_told_before_a_network_is_loaded(
    folders: Folders, step: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = json.dumps({"metrics": ["rouge1", "gpt_relevance"], "smothing": True, "model_id": "gpt2"})
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: pytest.fail("A network would be loaded."))
    assert refused(evaluate, arguments(folders, step, "--evaluation_config_params", params)) == 2
    faults = read(step / "error.json")["faults"]
    assert any("gpt_relevance needs another model as a judge" in fault for fault in faults)
    assert any("smothing is not a parameter. Did you mean smoothing?" in fault for fault in faults)
    assert any("model_id" in fault and "never with another" in fault for fault in faults)
