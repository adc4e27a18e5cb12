"""What must hold between parameters: each fault is named with what was given and what to do."""

import pytest

from mafunzo.entities.parameters.constraint import faults_between, joined_names
from mafunzo.entities.parameters.table import DEFAULTS

BOUNDED = {"lr_scheduler_type": "cosine_with_min_lr"}
FSDP = {"data_parallel_strategy": "fsdp"}
LORA = {"apply_lora": True}


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
        pytest.param({"long_rows": "split", "train_on": "last"}, "Use truncate or drop", id="a split of the last turn"),
        pytest.param({"lr_scheduler_type": "wsd"}, "is 'wsd', which needs num_decay_steps", id="stable for ever"),
        pytest.param(
            {"lr_scheduler_type": "wsd", "num_decay_steps": 8, "warmup_steps": 5, "max_steps": 10},
            "warmup_steps 5 and num_decay_steps 8 are more than all 10",
            id="long decay",
        ),
        pytest.param({"num_decay_steps": 8}, "Use warmup_stable_decay, or leave it out", id="a decay of another"),
        pytest.param(
            {"lr_decay_type": "linear"}, "lr_decay_type is linear while lr_scheduler_type", id="shape of none"
        ),
        pytest.param({"min_lr": 0.0}, "min_lr is 0.0 while lr_scheduler_type is 'linear'. Use cosine_with", id="end"),
        pytest.param({"min_lr_rate": 0.1}, "Use cosine_with_min_lr or warmup_stable_decay", id="end as a share"),
        pytest.param({"lr_timescale": 5}, "Use inverse_sqrt", id="scale of none"),
        pytest.param({"lr_scheduler_type": "cosine_with_min_lr"}, "needs one of min_lr and min_lr_rate", id="no end"),
        pytest.param(BOUNDED | {"min_lr": 1e-6, "min_lr_rate": 0.1}, "needs one of min_lr", id="two ends"),
        pytest.param(BOUNDED | {"min_lr": 0.1}, "min_lr is 0.1, more than learning_rate, 2e-05", id="rising"),
        pytest.param({"lora_target_modules": "q_proj"}, "Set apply_lora true", id="targets without LoRA"),
        pytest.param({"lora_target_modules": " , ", "apply_lora": True}, "commas between", id="empty targets"),
        pytest.param({"lora_target_modules": "all,q_proj", "apply_lora": True}, "Keep one of both", id="all and more"),
        pytest.param(LORA | {"lora_target_modules": "q_(proj"}, "nor a regular expression: missing )", id="no pattern"),
        pytest.param(LORA | {"exclude_modules": "all-linear"}, "leaves no layer", id="nothing left"),
        pytest.param(LORA | {"layers_to_transform": "0-x"}, "numbers of layers, as 0,1,8-11: '0-x'", id="no layers"),
        pytest.param(LORA | {"layers_to_transform": "3-1"}, "'3-1' is no range", id="a range backwards"),
        pytest.param(LORA | {"layers_to_transform": "[]"}, "expected numbers of layers", id="no layer"),
        pytest.param(
            LORA | {"layers_to_transform": "1", "lora_target_modules": ".*q_proj"},
            "names the layers itself",
            id="layers of a pattern",
        ),
        pytest.param(LORA | {"layers_pattern": "h"}, "given without layers_to_transform", id="a list of no layers"),
        pytest.param(
            LORA | {"layers_pattern": "h|x", "layers_to_transform": "1"}, "layers_pattern is 'h|x'", id="no list"
        ),
        pytest.param(LORA | {"rank_pattern": "q_proj=4"}, "expected a JSON object with a whole number", id="no object"),
        pytest.param(LORA | {"rank_pattern": '{"q_proj": 1.5}'}, "the value of 'q_proj' is 1.5", id="half a rank"),
        pytest.param(LORA | {"rank_pattern": '{"(": 1}'}, "missing )", id="a rank of no pattern"),
        pytest.param(LORA | {"alpha_pattern": '{"q_proj": 0}'}, "the value of 'q_proj' is 0", id="no alpha"),
        pytest.param(LORA | {"alpha_pattern": "{}"}, "it names none", id="an empty object"),
        pytest.param({"use_rslora": True}, "use_rslora is given while apply_lora is 'false'", id="scaled nothing"),
        pytest.param({"loraplus_lr_ratio": 16.0}, "Set apply_lora true", id="rates of nothing"),
        pytest.param({"init_lora_weights": "pissa"}, "Set apply_lora true", id="a start of nothing"),
        pytest.param(LORA | {"init_lora_weights": "pissa_niter_0"}, "with N from 1 to 99", id="an unknown start"),
        pytest.param(
            LORA | FSDP | {"init_lora_weights": "pissa"},
            "'pissa' while data_parallel_strategy is 'fsdp'",
            id="PiSSA in parts",
        ),
        pytest.param(
            LORA | {"init_lora_weights": "pissa", "apply_deepspeed": True, "deepspeed_stage": "3"},
            "while deepspeed_stage is '3'",
            id="PiSSA in ZeRO's parts",
        ),
        pytest.param(LORA | FSDP | {"use_dora": True}, "takes the norms of whole weights", id="DoRA in parts"),
        pytest.param(LORA | {"init_lora_weights": "pissa", "use_dora": True}, "Keep one", id="two starts"),
        pytest.param(
            {"apply_deepspeed": True, "auto_find_batch_size": True}, "DeepSpeed can't do", id="two that clash"
        ),
        pytest.param(
            {"apply_deepspeed": True, "optim": "adafactor"},
            "apply_deepspeed is 'true' while optim is 'adafactor', which needs whole matrices",
            id="an optimizer of whole matrices",
        ),
        pytest.param(
            {"deepspeed_stage": "3"}, "deepspeed_stage is '3' while apply_deepspeed is 'false'", id="a stage of nothing"
        ),
        pytest.param(FSDP | {"apply_deepspeed": True}, "each shards by itself", id="two ways to shard"),
        pytest.param(FSDP | {"optim": "adafactor"}, "needs whole matrices", id="FSDP of whole matrices"),
        pytest.param(FSDP | {"optim": "muon"}, "needs whole matrices. Use adamw_torch, or ddp", id="FSDP and Muon"),
        pytest.param({"apply_deepspeed": True, "optim": "sgd"}, "is tried with whole weights only", id="ZeRO and SGD"),
        pytest.param(
            {"momentum": 0.9}, "momentum is 0.9 while optim is 'adamw_torch'. Use sgd", id="momentum of AdamW"
        ),
        pytest.param(
            {"optim": "sgd", "adam_beta1": 0.8}, "adam_beta1 is given while optim is 'sgd'", id="AdamW's of SGD"
        ),
        pytest.param(FSDP | {"auto_find_batch_size": True}, "can't take a step again alone", id="FSDP tried again"),
        pytest.param(
            {"cpu_processes_finetune": 3, "gradient_accumulation_steps": 2},
            "which they share, are 2",
            id="idle processes",
        ),
    ],
)
def test_faults_between_parameters_are_named(given, words):
    faults = faults_between(DEFAULTS | given)
    assert len(faults) == 1 and words in faults[0]


def test_the_defaults_and_the_tutorial_s_values_have_no_faults():
    assert faults_between(DEFAULTS) == []
    tutorial = {"num_train_epochs": 3, "learning_rate": 5e-6, "lr_scheduler_type": "cosine", "apply_lora": True}
    assert faults_between(DEFAULTS | tutorial) == []


def test_a_list_of_names_is_their_text():
    assert joined_names("lora_target_modules", ["q_proj", "v_proj"]) == "q_proj,v_proj"
    assert joined_names("lora_target_modules", "all") == "all"
    assert joined_names("lora_target_modules", [1]) == [1]
    assert joined_names("optim", ["adamw_torch"]) == ["adamw_torch"]
    assert joined_names("layers_to_transform", [0, "2-3"]) == "0,2-3"
    assert joined_names("rank_pattern", {"q_proj": 4}) == '{"q_proj": 4}'


def test_all_faults_come_at_once():
    values = DEFAULTS | {"max_steps": 0, "save_total_limit": 0, "warmup_steps": 3, "warmup_ratio": 0.1}
    assert [fault.split(" ")[0] for fault in faults_between(values)] == [
        "max_steps",
        "save_total_limit",
        "warmup_steps",
    ]
