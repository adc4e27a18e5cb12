"""Tests of `mafunzo.control.workspace.shipped_pipeline`: what is wrong with its inputs, told before anything starts."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.arguments import DATA_INPUTS
from mafunzo.control.workspace.model_source import Upload
from mafunzo.control.workspace.shipped_component import shipped
from mafunzo.control.workspace.shipped_pipeline import require_good_rows, resolved_inputs
from mafunzo.entities.component import Component, Input
from mafunzo.entities.job import ArtifactInput, Job, JobStatus, LiteralInput, Step, StepSpec, StepStatus
from mafunzo.entities.job_request import RequestInput
from mafunzo.entities.reference import LocalPath, PathInput
from mafunzo.errors import Faults, InvalidData, InvalidFile

ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
BAD = '{"messages": []}'


def write(folder: Path, name: str, *lines: str) -> Path:
    (file := folder / name).write_text("\n".join(lines))
    return file


@pytest.mark.parametrize("name", ["none.jsonl", "empty.jsonl", "rows.txt"], ids=["missing", "empty", "unknown format"])
def test_a_file_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, "empty.jsonl")
    write(tmp_path, "rows.txt", ROW)
    with pytest.raises(InvalidFile, match=name):
        require_good_rows([tmp_path / name], "skip")


def test_good_files_pass(tmp_path: Path) -> None:
    require_good_rows([write(tmp_path, "a.jsonl", ROW), write(tmp_path, "b.jsonl", ROW, ROW)], "fail")


def test_every_bad_row_of_all_files_is_named_at_once(tmp_path: Path) -> None:
    files = [write(tmp_path, "a.jsonl", ROW, BAD), write(tmp_path, "b.jsonl", BAD, ROW)]
    with pytest.raises(InvalidData) as refusal:
        require_good_rows(files, "fail")
    text = str(refusal.value)
    assert "a.jsonl, row 2" in text
    assert "b.jsonl, row 1" in text


def test_bad_rows_that_are_to_be_skipped_pass(tmp_path: Path) -> None:
    require_good_rows([write(tmp_path, "a.jsonl", ROW, BAD)], "skip")


PIPELINE = Component(
    "p", "1", "pipeline", inputs={name: Input(name, "uri_file", is_optional=True) for name in DATA_INPUTS}
)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def resolved(
    workspace: Workspace, faults: Faults, pipeline: Component = PIPELINE, **values: RequestInput
) -> dict[str, Any]:
    return resolved_inputs(workspace.services, pipeline, values, faults, has_model_defaults=False, local={}, notes=[])


def test_files_are_uploads_of_which_nothing_is_stored_yet(workspace: Workspace, tmp_path: Path) -> None:
    file = write(tmp_path, "train.jsonl", ROW)
    faults = Faults()
    inputs = resolved(workspace, faults, train_file_path=PathInput(LocalPath(str(file)), "", str(file)))
    assert isinstance(inputs["train_file_path"], Upload) and inputs["train_file_path"].name == "train.jsonl"
    assert not faults
    assert not list(workspace.home.artifacts.rglob("*.jsonl"))


def test_what_becomes_of_rows_is_noted_before_anything_is_stored(workspace: Workspace, tmp_path: Path) -> None:
    train = [ROW, ROW, *(ROW.replace('"b"', f'"b{number}"') for number in range(12))]
    files = {"train": write(tmp_path, "train.jsonl", *train), "validation": write(tmp_path, "v.jsonl", BAD, ROW)}
    files["test"] = write(tmp_path, "test.jsonl", ROW.replace('"b"', '"c"'))
    faults = Faults()
    assert noted(workspace, files, faults) == [
        "1 of the 2 validation rows can't be used and are left out: 'messages' is empty",
        "1 of the 14 train rows equal an earlier one; rows that repeat within a split are kept",
        "12 of the 14 train rows have the prompt of an earlier one with another answer; they are kept",
        "2 of the 14 training rows are left out of training, since they stand elsewhere too: 2 in the validation rows",
    ]
    assert not faults


def noted(workspace: Workspace, files: dict[str, Path], faults: Faults) -> list[str]:
    values = {f"{name}_file_path": PathInput(LocalPath(str(path)), "", str(path)) for name, path in files.items()}
    pipeline = replace(PIPELINE, inputs={**PIPELINE.inputs, "on_bad_row": Input("on_bad_row", "string")})
    notes: list[str] = []
    resolved_inputs(workspace.services, pipeline, {**values, "on_bad_row": "skip"}, faults, False, {}, notes)
    return notes


def test_too_few_rows_to_train_on_are_refused_before_anything_is_stored(workspace: Workspace, tmp_path: Path) -> None:
    faults = Faults()
    noted(workspace, {"train": write(tmp_path, "few.jsonl", *[ROW] * 11)}, faults)
    noted(workspace, {"train": write(tmp_path, "bad.jsonl", *[ROW] * 9, *[BAD] * 20)}, faults)
    advice = "expected 10 or more. Add rows, or pass validation and test rows as files of their own."
    assert list(faults) == [
        f"train has 11 rows, of which 9 are for training, {advice}",
        f"train has 29 rows, of which 23 are for training and 9 can be used, {advice}",
    ]


def test_what_is_missing_is_told_at_once(workspace: Workspace, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.jsonl")
    model = Input("mlflow_model_path", "mlflow_model", is_optional=True)
    faults = Faults()
    pipeline = replace(PIPELINE, inputs={**PIPELINE.inputs, model.name: model})
    resolved(workspace, faults, pipeline, test_file_path=PathInput(LocalPath(gone), "", gone))
    model_missing, rows_missing, file_missing = faults
    assert model_missing.startswith("model is missing: name a model of")
    assert rows_missing == "train is missing: name a file of conversations to learn from."
    assert file_missing == f"test_file_path is '{gone}', which doesn't exist. Check the path."


def test_a_value_out_of_a_models_own_range_is_a_fault(workspace: Workspace) -> None:
    model = Input("mlflow_model_path", "mlflow_model", is_optional=True)
    rate = Input("learning_rate", "number", default=1e-4)
    faults = Faults()
    pipeline = Component("p", "1", "pipeline", inputs={model.name: model, rate.name: rate})
    resolved(workspace, faults, pipeline, mlflow_model_path="Phi-3-mini-4k-instruct", learning_rate=0.5)
    (fault,) = faults
    assert fault.startswith("learning_rate is 0.5, expected ") and "Phi-3-mini-4k-instruct" in fault


def test_a_model_that_is_stored_already_is_checked_and_keeps_its_name(workspace: Workspace, tmp_path: Path) -> None:
    (folder := tmp_path / "greeter").mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    header = b'{"model.q_proj.weight": {"dtype": "U8", "shape": [1, 1], "data_offsets": [0, 1]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    asset = workspace.models.register(folder, name="greeter")
    stored = ArtifactInput(asset.artifact or "", str(asset.key))
    pipeline = shipped("chat_completion_pipeline").component
    faults = Faults()
    values = {"pytorch_model_path": stored, "apply_lora": "true", "lora_target_modules": "lm_head"}
    inputs = resolved(workspace, faults, pipeline, **values)
    assert inputs["base_model_name"] == "greeter"
    assert [fault for fault in faults if "lora" in fault] == [
        "lora_target_modules has 'lm_head', whose weight is the embedding's too in greeter: leave it out."
    ]


def test_a_base_model_needs_a_template_from_somewhere(workspace: Workspace, tmp_path: Path) -> None:
    (folder := tmp_path / "base").mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (folder / "tokenizer.json").touch()
    path = PathInput(LocalPath(str(folder)), "", str(folder))
    config = write(tmp_path, "finetune_config.json", '{"chat_template": "x"}')
    for template, is_refused in (
        ({}, True),
        ({"finetune_config_path": PathInput(LocalPath(str(config)), "", "c")}, False),
    ):
        resolved(
            workspace,
            faults := Faults(),
            shipped("chat_completion_pipeline").component,
            pytorch_model_path=path,
            **template,
        )
        assert any("has no chat template" in fault for fault in faults) is is_refused


def test_layers_of_a_hubs_model_are_checked_once_it_was_imported_and_said_to_be_unknown_before(
    workspace: Workspace, tmp_path: Path
) -> None:
    pipeline = shipped("chat_completion_pipeline").component
    values = {"huggingface_id": "org/name", "apply_lora": "true", "lora_target_modules": "q_proj,nothing"}
    resolved_inputs(workspace.services, pipeline, values, faults := Faults(), False, {}, notes := [])
    assert not any("lora_target_modules" in fault for fault in faults)
    assert [
        note
        for note in notes
        if "org/name has the layers of lora_target_modules (q_proj,nothing) can't be told" in note
    ]
    (folder := tmp_path / "imported").mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')
    header = b'{"model.layers.0.q_proj.weight": {"dtype": "U8", "shape": [1, 1], "data_offsets": [0, 1]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    inputs = {"huggingface_id": LiteralInput("org/name")}
    spec = StepSpec("import_model", "import_model:1", "sha256:0", "true", inputs)
    step = Step("earlier", spec, StepStatus.COMPLETED, outputs={"model": workspace.artifacts.put(folder)})
    workspace.records.jobs.add(Job("earlier", "j", "e", "c:1", status=JobStatus.COMPLETED), [step])
    resolved_inputs(workspace.services, pipeline, values, faults := Faults(), False, {}, notes := [])
    assert [fault for fault in faults if "nothing" in fault] == [
        "lora_target_modules has 'nothing', expected some of q_proj for org/name."
    ]
    assert not any("can't be told" in note for note in notes)


def test_a_job_on_a_mixture_has_a_note(workspace: Workspace, tmp_path: Path) -> None:
    (folder := tmp_path / "mixture").mkdir()
    (folder / "config.json").write_text('{"model_type": "mixtral"}')
    header = b'{"model.layers.0.mlp.experts.gate_up_proj": {"dtype": "U8", "shape": [1, 1, 1], "data_offsets": [0, 1]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    path = PathInput(LocalPath(str(folder)), "", str(folder))
    values = {"pytorch_model_path": path, "apply_lora": "true"}
    pipeline = shipped("chat_completion_pipeline").component
    resolved_inputs(workspace.services, pipeline, values, Faults(), False, {}, notes := [])
    assert [note for note in notes if "The experts of mixture get no adapter" in note]
