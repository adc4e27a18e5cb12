"""Tests of `mafunzo.control.workspace.arguments`: every fault of a request at once, and every way to name what a job takes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace import computes as compute
from mafunzo.control.workspace.shipped_component import shipped
from mafunzo.entities.component import Component
from mafunzo.entities.compute import Hardware
from mafunzo.entities.job import ArtifactInput
from mafunzo.errors import InvalidParameter

ROOT = Path(__file__).parents[4]
ROWS = ROOT / "examples" / "conversations.jsonl"
DEEPSPEED = ROOT / "examples" / "deepspeed_zero2.json"
PIPELINE: Component = shipped("chat_completion_pipeline").component


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with Workspace(tmp_path_factory.mktemp("home"), port=0) as opened:
        yield opened


def faults(workspace: Workspace, **given: object) -> list[str]:
    request = {"model": "SmolLM2-135M-Instruct", "train": ROWS, **given}
    with pytest.raises(InvalidParameter) as refused:
        workspace.jobs.plan_finetune(**request)
    return list(refused.value.faults)


@pytest.mark.parametrize("as_text", [str, lambda value: value], ids=["from the command line", "from Python"])
def test_a_models_own_ranges_hold(workspace, as_text):
    told = faults(workspace, max_seq_length=as_text(999_999), lora_r=as_text(100_000), apply_lora="true")
    assert len(told) == 2
    assert "max_seq_length is 999999, expected -1 to 8192 for SmolLM2-135M-Instruct" in told[0]
    assert "whose card is narrower than the parameter (mafunzo model show SmolLM2-135M-Instruct:q4_1)" in told[0]


def test_what_peers_write_into_their_files_is_taken(workspace):
    request = {"model": "tiny-llama", "train": ROWS, "apply_lora": "true"}
    for given, text in (("all", "all"), (["q_proj", "v_proj"], "q_proj,v_proj"), ("all-linear", "all-linear")):
        _, steps = workspace.jobs.plan_finetune(**request, lora_target=given, num_train_epochs="0.5")
        literals = next(step.spec.literals for step in steps if step.name == "finetune")
        assert (literals["lora_target_modules"], literals["num_train_epochs"]) == (text, 0.5)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        pytest.param({"max_steps": 0}, "max_steps is 0", id="no steps"),
        pytest.param({"warmup_steps": 2, "warmup_ratio": 0.1}, "both given", id="two warm-ups"),
        pytest.param({"lora_target_modules": "q_proj", "apply_lora": "false"}, "apply_lora is 'false'", id="layers without LoRA"),
        pytest.param({"evaluation_config_params": "{"}, "is not JSON", id="broken JSON"),
        pytest.param({"gate": "better", "gate_metric": "rouge1", "generation_rows": 0}, "needs replies", id="blind gate"),
        pytest.param({"priority": "high"}, "priority is 'high', expected a whole number", id="priority"),
        pytest.param({"force_rerun": "perhaps"}, "force_rerun is 'perhaps', expected true or false", id="truth"),
        pytest.param({"tags": "foo"}, "tags is 'foo', expected name=value pairs", id="tags"),
        pytest.param({"compute_finetune": "gpu-cluster"}, "no compute has that name", id="compute"),
        pytest.param({"huggingface_id": "org/name"}, "model and huggingface_id both name the base model", id="two bases"),
        pytest.param({"base_model": "org/name"}, "both name the base model", id="two bases by an alias"),
        pytest.param({"deepspeed": ROWS, "apply_deepspeed": "true"}, "conversations.jsonl) is not JSON", id="a configuration that is none"),
        pytest.param({"deepspeed": ROWS.parent, "apply_deepspeed": "true"}, "a folder. Name the JSON file in it", id="a configuration's folder"),
        pytest.param({"deepspeed": DEEPSPEED}, "deepspeed is given while apply_deepspeed is 'false'", id="a configuration of nothing"),
        pytest.param({"evaluation_config": "/no/file.json"}, "evaluation_config is '/no/file.json', which doesn't exist", id="file"),
        pytest.param({"train_file_path": ROWS}, "train_file_path is given twice", id="rows twice"),
        pytest.param({"learning_rat": 1}, "Did you mean learning_rate?", id="typo"),
    ],
)  # fmt: skip
def test_a_fault_is_told_before_anything_is_stored(workspace, given, fault):
    told = faults(workspace, **given)
    assert len(told) == 1
    assert fault in told[0]
    assert workspace.artifacts.hashes() == []


def test_all_faults_of_a_deepspeed_configuration_come_at_once_also_of_stored_files(workspace, tmp_path):
    (file := tmp_path / "zero.json").write_text(
        '{"gradient_cliping": 1, "optimizer": {"params": {"lr": 0.1}}, "amp": {}}'
    )
    local = faults(workspace, deepspeed=file, apply_deepspeed="true")
    assert len(local) == 3
    with Workspace(tmp_path / "home", port=0) as own:
        stored = ArtifactInput(own.artifacts.put(file), "zero.json")
        assert faults(own, deepspeed=stored, apply_deepspeed="true") == local


def test_a_deepspeed_configuration_goes_to_the_step_that_trains(workspace):
    values = {"apply_deepspeed": "true", "learning_rate": 1e-4, "apply_lora": "true"}
    _, steps = workspace.jobs.plan_finetune(model="tiny-llama", train=ROWS, deepspeed=DEEPSPEED, **values)
    assert [step.name for step in steps if "deepspeed" in step.spec.inputs] == ["finetune"]


def test_all_faults_come_at_once(workspace):
    told = faults(workspace, priority="high", max_steps=0, lora_r=0, train="/no/rows.jsonl", nonsense=1)
    assert len(told) == 5


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        pytest.param({"model": "tiny-llama", "lora_target": "q_proj,lm_head"}, "has 'lm_head', whose weight is the embedding's", id="a tied head"),
        pytest.param({"model": "tiny-phi3", "lora_target": "q_proj"}, "has 'q_proj', expected some of down_proj, gate_up_proj", id="another family's layer"),
        pytest.param({"model": "tiny-llama", "lora_target": ["self_attn.q_proj", "x"]}, "has 'x', expected some of", id="one of a list"),
        pytest.param({"model": "tiny-phi3", "lora_target": r".*\.w[qk]"}, "matches the whole name of no linear layer for tiny-phi3:1. They are model.layers.N.self_attn.qkv_proj", id="a pattern"),
        pytest.param({"model": "tiny-phi3", "layers_to_transform": [0, 2]}, "layers_to_transform has 2, expected 0 to 1 for tiny-phi3:1", id="a layer"),
        pytest.param({"model": "tiny-phi3", "rank_pattern": {"q_proj": 2}}, "rank_pattern has 'q_proj', which is none of the layers", id="a rank"),
        pytest.param({"model": "tiny-phi3", "lora_target": "(q"}, "is '(q', which is neither names with commas between nor", id="no pattern"),
        pytest.param({"model": "tiny-phi3", "init_lora_weights": "eva"}, "init_lora_weights is 'eva': it needs gradients or activations", id="a start"),
    ],
)  # fmt: skip
def test_layers_that_no_adapter_can_be_put_on_are_told_before_the_job_starts(workspace, given, fault):
    told = faults(workspace, apply_lora="true", **given)
    assert len(told) == 1 and fault in told[0]


def test_what_is_wrong_with_target_modules_comes_at_once(workspace):
    given = {"lora_target": "w1,qkv_proj", "rank_pattern": "x", "layers_to_transform": "0-9"}
    told = faults(workspace, model="tiny-phi3", apply_lora="true", **given)
    assert [fault.split(" ")[0] for fault in told] == ["lora_target_modules", "layers_to_transform", "rank_pattern"]


def test_a_head_of_its_own_can_have_an_adapter(workspace):
    workspace.jobs.plan_finetune(model="tiny-phi3", train=ROWS, apply_lora="true", lora_target="lm_head,qkv_proj")


def test_the_files_of_a_folder_are_checked_and_its_name_goes_on(workspace, tmp_path):
    (folder := tmp_path / "greeter").mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    for part in ("pytorch_model.bin", "tokenizer.json", "chat_template.jinja"):
        (folder / part).touch()
    request = {"model": folder, "apply_lora": "true"}
    assert "has its weights in pytorch_model.bin, not in safetensors" in faults(workspace, **request)[0]
    header = b'{"h.0.attn.c_attn.weight": {"dtype": "U8", "shape": [1, 2], "data_offsets": [0, 2]}}'
    weights = len(header).to_bytes(8, "little") + header
    (folder / "model.safetensors").write_bytes(weights)
    assert "model.safetensors is cut off or damaged" in faults(workspace, **request)[0]
    (folder / "model.safetensors").write_bytes(weights + b"\0\0")
    assert (
        "greeter (gpt2) has no linear layers that LoRA can adapt. Set apply_lora false"
        in faults(workspace, **request)[0]
    )
    with Workspace(tmp_path / "home", port=0) as own:
        for model in (folder, own.models.register(folder, name="greeter")):
            assert len(faults(own, model=model, apply_lora="true")) == 1
            job, steps = own.jobs.plan_finetune(model=model, train=ROWS)
            literals = next(step.spec.literals for step in steps if step.name == "import_model")
            assert literals["base_model_name"] == "greeter" and job.display_name.startswith("greeter")


def test_without_a_model_or_rows_both_are_named(workspace):
    told = faults(workspace, model=None, train=None)
    assert ["model is missing" in told[0], "train is missing" in told[1]] == [True, True]


@pytest.mark.parametrize("name", [n for n, d in PIPELINE.inputs.items() if d.is_path and "*" not in d.refused])
def test_every_input_that_is_a_path_can_be_given(workspace, tmp_path, name):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    for part in ("tokenizer.json", "chat_template.jinja"):
        (model / part).touch()
    table = tmp_path / "table"
    table.mkdir()
    (table / "MLTable").write_text(f"paths:\n  - file: {ROWS}\n")
    file = tmp_path / "file.json"
    file.write_text("{}")
    kinds = {"mltable": table, "custom_model": model, "mlflow_model": model, "uri_file": file}
    value = ROWS if name.endswith("_file_path") else kinds[PIPELINE.inputs[name].type]
    given = {"model": "tiny-llama", "train": ROWS, name: value}
    if name == "train_file_path" or name == "train_mltable_path":
        del given["train"]
    if name in ("pytorch_model_path", "mlflow_model_path"):
        del given["model"]
    if name == "deepspeed":
        given["apply_deepspeed"] = "true"
    job, _ = workspace.jobs.plan_finetune(**given)
    taken = "pytorch_model_path" if name == "mlflow_model_path" else name  # a plain Hugging Face folder
    assert job.inputs[taken] == {"artifact": "", "name": value.name}
    assert workspace.artifacts.hashes() == []


def test_the_pipelines_own_inputs_name_a_model_of_the_catalogue(workspace):
    job, _ = workspace.jobs.plan_finetune(mlflow_model_path="tiny-llama:1", train=ROWS)
    assert job.inputs["mlflow_model_path"]["name"] == "tiny-llama:1"


def test_a_comparison_takes_the_evaluations_parameters():
    component = shipped("compare_models").component
    assert {"generation_rows", "forgetting_prompts", "max_new_tokens", "evaluation_config"} <= set(component.inputs)


def test_training_and_evaluation_take_a_gpu_where_there_is_one(workspace, monkeypatch):
    for gpus in ((), ("A GPU",), ("A GPU", "another")):
        monkeypatch.setattr(compute, "_hardware", lambda gpus=gpus: Hardware(8, 64_000, gpus))
        _, steps = workspace.jobs.plan_finetune(model="tiny-llama", train=ROWS)
        held = {step.name: step.spec.resources.gpus for step in steps}
        one = min(1, len(gpus))
        assert held == {"import_model": 0, "prepare_data": 0, "finetune": one, "evaluate": one, "package_model": 0}
