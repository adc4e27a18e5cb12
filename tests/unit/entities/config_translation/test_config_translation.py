"""Tests of `mafunzo.entities.config_translation`: files of other tools, written after their keys, as arguments here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from mafunzo.entities.config_tool import ConfigTool
from mafunzo.entities.config_translation import TOOLS, Fate, NoFiles, Translation, translate
from mafunzo.entities.config_translation.translation import Config
from mafunzo.entities.parameters.table import PARAMETERS
from mafunzo.errors import InvalidParameter

OWN_ARGUMENTS = {"model", "train", "validation", "test", "job_name", "display_name", "experiment"}
"""What `Workspace.finetune` takes besides the pipeline's parameters."""


class Folder:
    """Some files by name, with the JSON in them."""

    def __init__(self, **files: Any) -> None:
        self.files = files

    def exists(self, path: str) -> bool:
        return path in self.files

    def read(self, path: str) -> Any:
        return self.files.get(path)


def read(tool: ConfigTool, text: str, files: Any = None, **more: Any) -> Translation:
    return translate(tool, yaml.safe_load(text), files or Folder(), **more)


def fates(translation: Translation) -> dict[str, Fate]:
    return {entry.key: entry.outcome.fate for entry in translation.entries}


LLAMAFACTORY = """
model_name_or_path: tiny-llama
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 4
dataset: greetings
dataset_dir: rows
template: llama3
cutoff_len: 256
learning_rate: 1e-4
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
overwrite_cache: true
plot_loss: true
resume_from_checkpoint: null
"""
SHAREGPT = {
    "file_name": "greetings.json",
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


def test_llamafactory_with_what_it_takes_where_a_file_says_nothing() -> None:
    files = Folder(**{"rows/dataset_info.json": {"greetings": SHAREGPT}})
    translation = read(ConfigTool.LLAMAFACTORY, LLAMAFACTORY, files)
    translation.require_honoured("lf.yaml")
    assert translation.parameters == {
        "model": "tiny-llama",
        "train": "rows/greetings.json",
        "apply_lora": "true",
        "lora_r": 4,
        "lora_alpha": 8,  # twice the rank
        "lora_target_modules": "all",
        "max_seq_length": 256,
        "learning_rate": 1e-4,  # YAML reads a text
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "precision": "16",
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "evaluation_strategy": "disable",
        "optim": "adamw_torch_fused",
    }
    told = fates(translation)
    assert told["template"] is Fate.CHANGED and told["overwrite_cache"] is Fate.DROPPED
    assert "resume_from_checkpoint" not in told, "what is empty is not said"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"file_name": None, "hf_hub_url": "a/b"}, "fetched from a hub"),
        ({"ranking": True}, "preferences"),
        ({"formatting": "openai"}, "expected alpaca or sharegpt"),
        ({"columns": {"messages": "talk"}}, "rename the column to conversations"),
        ({"columns": {"images": "images"}}, "images isn't read here"),
        ({"tags": {"role_tag": "who"}}, "its tags"),
    ],
)
def test_a_data_set_of_llamafactory_that_would_be_read_otherwise_is_refused(change: Any, fault: str) -> None:
    info = {key: value for key, value in (SHAREGPT | change).items() if value is not None}
    files = Folder(**{"rows/dataset_info.json": {"greetings": info}})
    translation = read(ConfigTool.LLAMAFACTORY, LLAMAFACTORY, files)
    assert [(entry.key, fault in entry.outcome.reason) for entry in translation.refused] == [("dataset", True)]
    assert read(ConfigTool.LLAMAFACTORY, LLAMAFACTORY, files, overruled={"train"}).refused == []


def test_adapters_are_said_nothing_of_where_all_weights_are_trained() -> None:
    parameters = read(ConfigTool.LLAMAFACTORY, "{finetuning_type: full, lora_rank: 4}").parameters
    assert parameters["apply_lora"] == "false"
    assert not {name for name in parameters if name.startswith("lora_")}


AXOLOTL = """
base_model: tiny-llama
model_type: LlamaForCausalLM
load_in_8bit: false
datasets:
  - path: rows.jsonl
    type: chat_template
    roles_to_train: [assistant]
val_set_size: 0.1
sequence_len: 512
sample_packing: true
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_linear: true
lora_fan_in_fan_out:
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 2
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
tf32: false
gradient_checkpointing: true
flash_attention: true
warmup_steps: 10
evals_per_epoch: 4
wandb_project: mine
special_tokens:
  pad_token: "<|end|>"
"""


def test_axolotl() -> None:
    translation = read(ConfigTool.AXOLOTL, AXOLOTL, Folder(**{"rows.jsonl": None}))
    translation.require_honoured("config.yml")
    assert translation.parameters == {
        "model": "tiny-llama",
        "train": "rows.jsonl",
        "apply_lora": "true",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_modules": "all",
        "max_seq_length": 512,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 2,
        "optim": "adamw_torch",
        "lr_scheduler_type": "cosine",
        "learning_rate": 0.0002,
        "precision": "16",
        "gradient_checkpointing": "true",
        "warmup_steps": 10,
        "evaluation_strategy": "steps",
        "evaluation_steps_interval": 0.25,
    }
    assert fates(translation)["sample_packing"] is Fate.CHANGED


def test_axolotl_warms_up_and_trains_all_weights_where_a_file_says_nothing() -> None:
    translation = read(ConfigTool.AXOLOTL, "learning_rate: 1e-4")
    expected = {"apply_lora": "false", "warmup_ratio": 0.03, "lr_scheduler_type": "cosine", "max_seq_length": 512}
    assert expected.items() <= translation.parameters.items()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("adapter: qlora", "adapter"),
        ("load_in_4bit: true", "load_in_4bit"),
        ("optimizer: adamw_bnb_8bit", "optimizer"),
        ("lr_scheduler: rex", "lr_scheduler"),
        ("special_tokens: {bos_token: x}", "special_tokens.bos_token"),
        ("datasets: [{path: tatsu-lab/alpaca, type: alpaca}]", "datasets"),
        ("datasets: [{path: a.jsonl}, {path: b.jsonl}]", "datasets"),
        ("datasets: [{path: rows.jsonl, type: completion}]", "datasets"),
        ("datasets: [{path: rows.jsonl, roles_to_train: [user]}]", "datasets"),
        ("datasets: [{path: rows.jsonl, field_messages: talk}]", "datasets"),
        ("datasets: [{path: rows.jsonl, shards: 3}]", "datasets"),
        ("rl: dpo", "rl"),
        ("plugins: [x.y]", "plugins"),
        ("learning_rte: 1", "learning_rte"),
    ],
)
def test_what_axolotl_would_do_otherwise_is_refused(text: str, key: str) -> None:
    translation = read(ConfigTool.AXOLOTL, text, Folder(**{"rows.jsonl": None}))
    assert [entry.key for entry in translation.refused] == [key]
    with pytest.raises(InvalidParameter, match=r"config.yml can't be trained here as Axolotl would") as refusal:
        translation.require_honoured("config.yml")
    assert [fault.startswith(f"{key}: ") for fault in refusal.value.faults] == [True]
    assert read(ConfigTool.AXOLOTL, text, left_out=[key.partition(":")[0]]).refused == []


def test_trl() -> None:
    text = """
    model_name_or_path: tiny-llama
    dataset_name: rows
    use_peft: true
    lora_target_modules: [q_proj, v_proj]
    learning_rate: 2.0e-4
    assistant_only_loss: true
    packing: true
    eval_strategy: steps
    eval_steps: 50
    load_best_model_at_end: true
    warmup_steps: 0.1
    report_to: [wandb]
    """
    translation = read(ConfigTool.TRL, text, Folder(rows=None))
    translation.require_honoured("sft.yaml")
    assert translation.parameters == {
        "model": "tiny-llama",
        "train": "rows",
        "apply_lora": "true",
        "lora_target_modules": "q_proj,v_proj",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "learning_rate": 2e-4,
        "evaluation_strategy": "steps",
        "eval_steps": 50,
        "warmup_ratio": 0.1,
        "precision": "16",
        "gradient_checkpointing": "true",
        "max_seq_length": 1024,
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "optim": "adamw_torch_fused",
    }


def test_that_trl_learns_the_prompts_too_is_not_passed_over() -> None:
    assert [entry.key for entry in read(ConfigTool.TRL, "learning_rate: 1e-4").refused] == ["assistant_only_loss"]
    assert read(ConfigTool.TRL, "completion_only_loss: true").refused == []
    assert read(ConfigTool.TRL, "learning_rate: 1e-4", overruled={"train_on"}).refused == []
    assert read(ConfigTool.TRL, "completion_only_loss: false").parameters["train_on"] == "everything"
    picked = read(ConfigTool.TRL, "{use_peft: true, assistant_only_loss: true}").refused
    assert [entry.key for entry in picked] == ["lora_target_modules"]


TORCHTUNE = """
output_dir: /tmp/out
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  lora_rank: 64
  lora_alpha: 128
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  path: tokenizer.model
  max_seq_len: 512
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: /models/tiny
  checkpoint_files: [model.safetensors]
dataset:
  _component_: torchtune.datasets.chat_dataset
  source: json
  data_files: rows.json
  conversation_column: conversations
  conversation_style: sharegpt
  packed: False
shuffle: True
batch_size: 4
optimizer:
  _component_: torch.optim.AdamW
  fused: True
  weight_decay: 0.01
  lr: 3e-4
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss:
  _component_: torchtune.modules.loss.CEWithChunkedOutputLoss
epochs: 2
max_steps_per_epoch: 10
gradient_accumulation_steps: 8
dtype: bf16
device: cuda
profiler:
  _component_: torchtune.training.setup_torch_profiler
  enabled: False
"""


@pytest.mark.parametrize(
    ("tool", "text", "expected"),
    [
        (
            ConfigTool.LLAMAFACTORY,
            "{use_rslora: true, loraplus_lr_ratio: 16}",
            {"use_rslora": "true", "loraplus_lr_ratio": 16},
        ),
        (ConfigTool.LLAMAFACTORY, "{pissa_init: true}", {"init_lora_weights": "pissa_niter_16"}),
        (ConfigTool.LLAMAFACTORY, "{pissa_init: true, pissa_iter: -1}", {"init_lora_weights": "pissa"}),
        (ConfigTool.LLAMAFACTORY, "{mask_history: true}", {"train_on": "last"}),
        (ConfigTool.LLAMAFACTORY, "{train_on_prompt: true}", {"train_on": "everything"}),
        (ConfigTool.LLAMAFACTORY, "{neftune_noise_alpha: 5}", {"neftune_noise_alpha": 5}),
        (ConfigTool.AXOLOTL, "{adapter: lora, peft_layers_to_transform: [0, 1]}", {"layers_to_transform": "0,1"}),
        (ConfigTool.AXOLOTL, "{adapter: lora, peft_use_dora: true}", {"use_dora": "true"}),
        (ConfigTool.AXOLOTL, "{train_on_inputs: true}", {"train_on": "everything"}),
        (ConfigTool.AXOLOTL, "{optimizer: muon}", {"optim": "muon"}),
        (
            ConfigTool.TRL,
            "{lr_scheduler_type: cosine_with_min_lr, lr_scheduler_kwargs: {min_lr_rate: 0.1}}",
            {"lr_scheduler_type": "cosine_with_min_lr", "min_lr_rate": 0.1},
        ),
        (
            ConfigTool.TORCHTUNE,
            "{optimizer: {_component_: torch.optim.SGD, momentum: 0.9}}",
            {"optim": "sgd", "momentum": 0.9},
        ),
    ],
)
def test_methods_of_training_are_taken(tool: ConfigTool, text: str, expected: Mapping[str, Any]) -> None:
    assert expected.items() <= read(tool, text).parameters.items()


def test_torchtune() -> None:
    translation = read(ConfigTool.TORCHTUNE, TORCHTUNE, Folder(**{"rows.json": None}))
    translation.require_honoured("1B.yaml")
    assert translation.parameters == {
        "model": "/models/tiny",
        "train": "rows.json",
        "apply_lora": "true",
        "lora_target_modules": "q_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
        "lora_r": 64,
        "lora_alpha": 128,
        "lora_dropout": 0.0,
        "max_seq_length": 512,
        "per_device_train_batch_size": 4,
        "optim": "adamw_torch",
        "weight_decay": 0.01,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 100,
        "num_train_epochs": 2,
        "max_steps": 20,
        "gradient_accumulation_steps": 8,
        "precision": "16",
        "max_grad_norm": 0,
    }


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("model: {_component_: torchtune.models.llama3.qlora_llama3_8b}", "model._component_"),
        ("dataset: {_component_: torchtune.datasets.alpaca_dataset}", "dataset._component_"),
        ("optimizer: {_component_: bitsandbytes.optim.PagedAdamW8bit}", "optimizer._component_"),
        ("shuffle: false", "shuffle"),
        ("tokenizer: {prompt_template: a.b}", "tokenizer.prompt_template"),
    ],
)
def test_what_torchtune_would_do_otherwise_is_refused(text: str, key: str) -> None:
    assert [entry.key for entry in read(ConfigTool.TORCHTUNE, text).refused] == [key]


def test_openai_in_both_places_that_it_has_for_hyperparameters() -> None:
    files = Folder(**{"rows.jsonl": None})
    new = """
    {"model": "tiny-llama", "training_file": "rows.jsonl", "suffix": "mine", "method": {"type": "supervised",
     "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}}}}
    """
    old = '{"model": "tiny-llama", "training_file": "rows.jsonl", "hyperparameters": {"n_epochs": "auto"}}'
    translation = read(ConfigTool.OPENAI, new, files)
    translation.require_honoured("job.json")
    expected = {"model": "tiny-llama", "train": "rows.jsonl", "per_device_train_batch_size": 1, "apply_lora": "true"}
    assert translation.parameters == expected | {"num_train_epochs": 2, "learning_rate": 1e-4}
    assert read(ConfigTool.OPENAI, old, files).parameters == expected | {"num_train_epochs": 3, "learning_rate": 2e-4}
    assert [entry.key for entry in read(ConfigTool.OPENAI, "training_file: file-abc123").refused] == ["training_file"]


NODE = {
    "type": "pipeline",
    "component": "azureml://registries/azureml/components/chat_completion_pipeline/labels/latest",
    "inputs": {"train_file_path": "${{parent.inputs.rows}}", "num_train_epochs": "${{parent.inputs.epochs}}"},
}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            {"num_train_epochs": "3", "apply_lora": "true", "learning_rate": "5e-6", "deepspeed_stage": 2},
            {"num_train_epochs": 3, "apply_lora": "true", "learning_rate": 5e-6, "deepspeed_stage": 2},
            id="parameters alone",
        ),
        pytest.param(
            {
                "$schema": "https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json",
                "type": "pipeline",
                "experiment_name": "chat",
                "inputs": {"rows": {"type": "uri_file", "path": "rows.jsonl"}, "epochs": 2},
                "jobs": {"tune": NODE},
            },
            {"experiment": "chat", "train": "rows.jsonl", "num_train_epochs": 2},
            id="pipeline",
        ),
        pytest.param(
            {
                "type": "finetuning",
                "task": "chat_completion",
                "model_provider": "custom",
                "model": {"path": "tiny", "type": "mlflow_model"},
                "training_data": "rows.jsonl",
                "hyperparameters": {"per_device_train_batch_size": "2", "lora_r": "4"},
                "resources": {"instance_types": ["Standard_NC6"]},
            },
            {"mlflow_model_path": "tiny", "train": "rows.jsonl", "per_device_train_batch_size": 2, "lora_r": 4},
            id="fine-tuning",
        ),
    ],
)
def test_azure(body: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    translation = translate(ConfigTool.AZURE, body, NoFiles())
    translation.require_honoured("job.yml")
    assert translation.parameters == expected


def test_a_pipeline_of_azures_that_does_more_is_refused() -> None:
    body = {"type": "pipeline", "jobs": {"tune": NODE, "score": {"component": "other"}}}
    assert [entry.key for entry in translate(ConfigTool.AZURE, body).refused] == ["jobs"]
    cloud = translate(ConfigTool.AZURE, {"train_file_path": "azureml:rows:1"})
    assert [entry.key for entry in cloud.refused] == ["train_file_path"]


def test_a_key_that_is_given_up_has_to_be_there() -> None:
    with pytest.raises(InvalidParameter, match="no such keys") as refusal:
        read(ConfigTool.TRL, "learning_rate: 1", left_out=["packing"])
    assert refusal.value.faults == ("--drop packing: it has learning_rate.",)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_rule_gives_arguments_that_there_are_whatever_the_value(tool: ConfigTool) -> None:
    known = {*PARAMETERS, *OWN_ARGUMENTS}
    for key in TOOLS[tool].rules:
        for value in (True, "text", 1, 0.5, ["a"], [{"a": 1}], [], "2025-01-01"):
            for entry in TOOLS[tool].translate({key: value}, NoFiles(), (), ()).entries:
                assert {*entry.outcome.parameters, entry.outcome.target} - {""} <= known, key
                assert entry.outcome.fate is Fate.TAKEN or entry.outcome.reason, key


@pytest.mark.slow
def test_every_field_of_trl_is_known_and_its_defaults_are_trls() -> None:
    from trl import ModelConfig, ScriptArguments, SFTConfig

    tool = TOOLS[ConfigTool.TRL]
    defaults = dict(tool.defaults({}))
    for field in (field for kind in (SFTConfig, ModelConfig, ScriptArguments) for field in dataclasses.fields(kind)):
        assert field.name in tool.rules or field.name.startswith(tuple(tool.prefixes)), field.name
        if field.default in (None, dataclasses.MISSING):
            continue
        if field.name in defaults:
            assert defaults[field.name] == field.default, field.name
            continue
        outcome = (
            tool.rules[field.name](field.default, Config({}, defaults, (), NoFiles()))
            if field.name in tool.rules
            else None
        )
        for name, value in (outcome.parameters if outcome else {}).items():
            assert str(value) == str(PARAMETERS[name].default) or float(value) == PARAMETERS[name].default, field.name
