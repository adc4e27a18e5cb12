import importlib.util
from pathlib import Path

import pytest
import yaml

from mafunzo.compute.components.command import load_interface
from mafunzo.entities.component import PATH_TYPES, parse_value
from mafunzo.entities.parameters.constraint import faults_between, split_names
from mafunzo.entities.parameters.parameter import STEPS
from mafunzo.entities.parameters.table import DEFAULTS, PARAMETERS

ROOT = Path(__file__).resolve().parents[4]
COMPONENTS = ROOT / "mafunzo" / "compute" / "components"

# The inputs of Azure ML's chat_completion_pipeline 0.0.82: type, default, enum, minimum.
T = ("true", "false")
AZURE = {
    "instance_type_model_import": ("string", "Standard_d12_v2", (), None),
    "instance_type_preprocess": ("string", "Standard_d12_v2", (), None),
    "instance_type_finetune": ("string", "Standard_nc24rs_v3", (), None),
    "instance_type_model_evaluation": ("string", "Standard_nc24rs_v3", (), None),
    "shm_size_finetune": ("string", "5g", (), None),
    "num_nodes_finetune": ("integer", 1, (), 1),
    "number_of_gpu_to_use_finetuning": ("integer", 1, (), 1),
    "huggingface_id": ("string", None, (), None),
    "pytorch_model_path": ("custom_model", None, (), None),
    "mlflow_model_path": ("mlflow_model", None, (), None),
    "finetune_config_path": ("uri_file", None, (), None),
    "trust_remote_code": ("string", "false", T, None),
    "task_name": ("string", "ChatCompletion", ("ChatCompletion",), None),
    "batch_size": ("integer", 1000, (), 1),
    "pad_to_max_length": ("string", "false", T, None),
    "max_seq_length": ("integer", -1, (), None),
    "train_file_path": ("uri_file", None, (), None),
    "validation_file_path": ("uri_file", None, (), None),
    "test_file_path": ("uri_file", None, (), None),
    "train_mltable_path": ("mltable", None, (), None),
    "validation_mltable_path": ("mltable", None, (), None),
    "test_mltable_path": ("mltable", None, (), None),
    "apply_lora": ("string", "false", T, None),
    "merge_lora_weights": ("string", "true", T, None),
    "lora_alpha": ("integer", 128, (), None),
    "lora_r": ("integer", 8, (), None),
    "lora_dropout": ("number", 0.0, (), None),
    "num_train_epochs": ("integer", 1, (), 1),
    "max_steps": ("integer", -1, (), None),
    "per_device_train_batch_size": ("integer", 1, (), 1),
    "per_device_eval_batch_size": ("integer", 1, (), 1),
    "auto_find_batch_size": ("string", "false", T, None),
    "optim": ("string", "adamw_torch", ("adamw_torch", "adafactor"), None),
    "learning_rate": ("number", 2e-05, (), None),
    "warmup_steps": ("integer", 0, (), None),
    "weight_decay": ("number", 0.0, (), None),
    "adam_beta1": ("number", 0.9, (), None),
    "adam_beta2": ("number", 0.999, (), None),
    "adam_epsilon": ("number", 1e-8, (), None),
    "gradient_accumulation_steps": ("integer", 1, (), None),
    "eval_accumulation_steps": ("integer", -1, (), None),
    "lr_scheduler_type": (
        "string",
        "linear",
        ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"),
        None,
    ),
    "precision": ("string", "32", ("32", "16"), None),
    "seed": ("integer", 42, (), None),
    "enable_full_determinism": ("string", "false", T, None),
    "dataloader_num_workers": ("integer", 0, (), None),
    "ignore_mismatched_sizes": ("string", "false", T, None),
    "max_grad_norm": ("number", 1.0, (), None),
    "evaluation_strategy": ("string", "epoch", ("epoch", "steps", "disable"), None),
    "evaluation_steps_interval": ("number", 0.0, (), None),
    "eval_steps": ("integer", 500, (), None),
    "logging_strategy": ("string", "steps", ("epoch", "steps"), None),
    "logging_steps": ("integer", 10, (), None),
    "metric_for_best_model": ("string", "loss", ("loss", "f1", "exact"), None),
    "resume_from_checkpoint": ("string", "false", T, None),
    "save_total_limit": ("integer", -1, (), None),
    "apply_early_stopping": ("string", "false", T, None),
    "early_stopping_patience": ("integer", 1, (), None),
    "early_stopping_threshold": ("number", 0.0, (), None),
    "apply_deepspeed": ("string", "false", T, None),
    "deepspeed": ("uri_file", None, (), None),
    "deepspeed_stage": ("string", "2", ("2", "3"), None),
    "apply_ort": ("string", "false", T, None),
    "evaluation_config": ("uri_file", None, (), None),
    "evaluation_config_params": ("string", None, (), None),
    "compute_model_import": ("string", "serverless", (), None),
    "compute_preprocess": ("string", "serverless", (), None),
    "compute_finetune": ("string", "serverless", (), None),
    "compute_model_evaluation": ("string", "serverless", (), None),
}


def test_the_pipeline_has_every_input_of_azure_s_with_its_type_default_and_values():
    inputs = load_interface(COMPONENTS / "chat_completion_pipeline.yml").inputs
    assert len(AZURE) == 69
    assert {n for n, p in PARAMETERS.items() if p.is_azure} == set(AZURE)
    for name, (kind, default, enum, minimum) in AZURE.items():
        found = inputs[name]
        assert (found.type, found.default, found.enum) == (kind, default, enum), name
        assert minimum is None or found.minimum == minimum, name
        assert found.is_optional == (name != "task_name"), name


def test_the_pipeline_has_azure_s_outputs_and_the_evaluation():
    outputs = load_interface(COMPONENTS / "chat_completion_pipeline.yml").outputs
    assert {name: output.type for name, output in outputs.items()} == {
        "pytorch_model_folder": "uri_folder",
        "mlflow_model_folder": "mlflow_model",
        "evaluation_result": "uri_folder",
    }


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_every_default_is_accepted_by_its_own_declaration(name):
    declared = PARAMETERS[name].as_input()
    if declared.default is not None:
        assert parse_value(declared, declared.default) == (declared.default, "")


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_no_input_is_dead(name):
    """It reaches a step, or every other value than the default is refused, or it is a fact about machines to record."""
    parameter = PARAMETERS[name]
    others = set(parameter.enum) - {parameter.default}
    is_refused = "*" in parameter.refused or (others and others <= set(parameter.refused))
    is_machine = name.startswith(("instance_type_", "compute_", "shm_size_"))
    follows = {"deepspeed_stage": "apply_deepspeed"}
    assert parameter.steps or is_refused or is_machine or "true" in PARAMETERS[follows[name]].refused
    assert set(parameter.steps) <= set(STEPS)


def test_every_binding_of_the_pipeline_exists_with_a_fitting_type():
    pipeline = load_interface(COMPONENTS / "chat_completion_pipeline.yml")
    parts = {name: load_interface(COMPONENTS / f"{node.component}.yml") for name, node in pipeline.nodes.items()}
    for name, node in pipeline.nodes.items():
        for key, binding in node.inputs.items():
            assert key in parts[name].inputs, f"{name} has no input {key}"
            path = binding.removeprefix("${{parent.").removesuffix("}}").split(".")
            declared = parts[name].inputs[key]
            if path[0] == "inputs":
                source = pipeline.inputs[path[1]]
                assert source.type == declared.type, f"{name}.{key}"
                assert source.default == declared.default, f"{name}.{key}"
                assert source.enum == declared.enum, f"{name}.{key}"
                assert source.is_required <= declared.is_required or source.is_optional <= declared.is_optional
            else:
                assert declared.is_path and path[3] in parts[path[1]].outputs, f"{name}.{key}"
                assert declared.type in (parts[path[1]].outputs[path[3]].type, "uri_folder"), f"{name}.{key}"
        for key, target in node.outputs.items():
            assert key in parts[name].outputs
            assert target.removeprefix("${{parent.outputs.").removesuffix("}}") in pipeline.outputs
        required = {key for key, declared in parts[name].inputs.items() if declared.is_required}
        assert required <= set(node.inputs), f"{name} needs {required - set(node.inputs)}"


@pytest.mark.parametrize("step", STEPS)
def test_what_a_step_takes_reaches_it(step):
    """Every input of a component is bound, none is left at its default."""
    pipeline = load_interface(COMPONENTS / "chat_completion_pipeline.yml")
    component = load_interface(COMPONENTS / f"{step}.yml")
    assert set(component.inputs) == set(pipeline.nodes[step].inputs)


def test_the_reference_page_names_every_parameter_and_refusal():
    page = (ROOT / "docs/reference/parameters.md").read_text()
    for name, parameter in PARAMETERS.items():
        assert f"| `{name}` |" in page
        assert all(reason in page for reason in parameter.refused.values())


@pytest.mark.parametrize("name", [n for n, p in PARAMETERS.items() if p.refused])
def test_a_refused_value_comes_back_with_its_reason(name):
    declared = PARAMETERS[name].as_input()
    if declared.type in PATH_TYPES:
        return
    for value, reason in declared.refused.items():
        given = value if value != "*" else (declared.default or 0) + 1
        assert parse_value(declared, given) == (None, f"{name} is {given if value == '*' else repr(value)}: {reason}")


def test_aliases_are_unique_and_no_parameter_s_own_name():
    aliases = [alias for parameter in PARAMETERS.values() for alias in parameter.aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(PARAMETERS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"apply_early_stopping": True, "evaluation_strategy": "disable"}, "no validation loss", id="stop"),
        pytest.param({"evaluation_steps_interval": 0.5}, "Use evaluation_strategy steps", id="interval"),
        pytest.param({"max_steps": 0}, "max_steps is 0", id="no steps"),
        pytest.param({"save_total_limit": 0}, "save_total_limit is 0", id="no checkpoint"),
        pytest.param({"max_seq_length": 0}, "max_seq_length is 0", id="no tokens"),
        pytest.param({"warmup_steps": 3, "warmup_ratio": 0.1}, "both given", id="two warm-ups"),
        pytest.param({"warmup_steps": 30, "max_steps": 20}, "more than all 20", id="long warm-up"),
        pytest.param({"lora_target_modules": "q_proj"}, "Set apply_lora true", id="targets without LoRA"),
        pytest.param({"lora_target_modules": " , ", "apply_lora": True}, "commas between", id="empty targets"),
    ],
)
def test_faults_between_parameters_are_named(given, words):
    faults = faults_between(DEFAULTS | given)
    assert len(faults) == 1 and words in faults[0]


def test_the_defaults_and_the_tutorial_s_values_have_no_faults():
    assert faults_between(DEFAULTS) == []
    tutorial = {"num_train_epochs": 3, "learning_rate": 5e-6, "lr_scheduler_type": "cosine", "apply_lora": True}
    assert faults_between(DEFAULTS | tutorial) == []


@pytest.mark.parametrize("text", ["q_proj,v_proj", "q_proj, v_proj", "['q_proj', 'v_proj']", "q_proj v_proj"])
def test_names_are_read_in_the_ways_that_people_write_them(text):
    assert split_names(text) == ("q_proj", "v_proj")


def test_the_pipeline_is_a_component_that_yaml_reads_back_as_declared():
    body = yaml.safe_load((COMPONENTS / "chat_completion_pipeline.yml").read_text())
    assert body["inputs"]["learning_rate"]["default"] == 2e-05
    assert body["inputs"]["adam_epsilon"]["default"] == 1e-8
    assert importlib.util.find_spec("mafunzo.entities.parameters.table")
