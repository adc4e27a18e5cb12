from pathlib import Path

import pytest

from mafunzo.compute.components.command import load_interface
from mafunzo.entities.component import PATH_TYPES, parse_value
from mafunzo.entities.parameters.parameter import STEPS
from mafunzo.entities.parameters.table import PARAMETERS

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
    "num_train_epochs": ("number", 1.0, (), None),  # an integer there; half an epoch is taken here
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


MORE_VALUES = {"lr_scheduler_type", "optim"}
"""Inputs that take more values here, after those that Azure's take."""


def test_the_pipeline_has_every_input_of_azure_s_with_its_type_default_and_values():
    inputs = load_interface(COMPONENTS / "chat_completion_pipeline.yml").inputs
    assert len(AZURE) == 69
    assert {n for n, p in PARAMETERS.items() if not p.is_own} == set(AZURE)
    for name, (kind, default, enum, minimum) in AZURE.items():
        found = inputs[name]
        assert (found.type, found.default, found.enum[: len(enum)]) == (kind, default, enum), name
        assert found.enum == enum or name in MORE_VALUES, name
        assert minimum is None or found.minimum == minimum, name
        assert found.is_optional == (name != "task_name"), name


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
