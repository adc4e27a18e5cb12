"""A DeepSpeed configuration of one's own: what is honoured, what is filled, and what is refused by name."""

import json

import pytest

from mafunzo.entities.deepspeed import DeepSpeedConfig, deepspeed_config
from mafunzo.entities.parameters.table import DEFAULTS
from mafunzo.errors import InvalidFile, InvalidParameter

VALUES = {**DEFAULTS, "apply_deepspeed": True}


def config(body: object, **values: object) -> DeepSpeedConfig:
    return deepspeed_config(json.dumps(body), "deepspeed (zero.json)", {**VALUES, **values})


def faults(body: object, **values: object) -> list[str]:
    with pytest.raises(InvalidParameter) as refused:
        config(body, **values)
    assert str(refused.value).startswith("deepspeed (zero.json) can't be used.")
    return list(refused.value.faults)


def test_an_empty_one_leaves_all_to_the_parameters():
    assert config({}) == DeepSpeedConfig(2)


def test_what_users_of_hugging_face_write_is_taken_and_filled():
    """The file of its documentation for stage 2, with "auto" throughout."""
    body = {
        "fp16": {
            "enabled": "auto",
            "loss_scale": 0,
            "loss_scale_window": 1000,
            "initial_scale_power": 16,
            "hysteresis": 2,
            "min_loss_scale": 1,
        },
        "bf16": {"enabled": "auto"},
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
        },
        "scheduler": {
            "type": "WarmupDecayLR",
            "params": {
                "total_num_steps": "auto",
                "warmup_min_lr": "auto",
                "warmup_max_lr": "auto",
                "warmup_num_steps": "auto",
            },
        },
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
            "allgather_partitions": True,
            "allgather_bucket_size": 2e8,
            "overlap_comm": True,
            "reduce_scatter": True,
            "reduce_bucket_size": "auto",
            "contiguous_gradients": True,
        },
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "steps_per_print": 2000,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "wall_clock_breakdown": False,
    }
    ours = config(body)
    assert (ours.stage, ours.offloads) == (2, True)
    assert ours.filled(576) == {
        "steps_per_print": 2000,
        "zero_optimization": {**body["zero_optimization"], "reduce_bucket_size": 576 * 576},
    }


def test_an_auto_that_nothing_fills_is_left_to_deepspeed():
    body = {"zero_optimization": {"overlap_comm": "auto", "stage": "auto"}, "steps_per_print": "auto"}
    assert config(body).filled(64) == {"zero_optimization": {"stage": 2}}


def test_the_files_stage_stands_where_no_other_is_set():
    assert config({"zero_optimization": {"stage": 1}}).stage == 1


def test_stage_3_is_taken_from_the_file_and_its_sizes_are_filled():
    """The file of Hugging Face's documentation for stage 3."""
    zero = {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "offload_param": {"device": "cpu", "pin_memory": True},
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    ours = config({"zero_optimization": zero})
    del zero["stage3_gather_16bit_weights_on_model_save"]  # what is saved is always whole
    sizes = {
        "reduce_bucket_size": 4096,
        "stage3_prefetch_bucket_size": 3686,
        "stage3_param_persistence_threshold": 640,
    }
    assert (ours.stage, ours.filled(64)) == (3, {"zero_optimization": zero | sizes})


def test_stage_3_without_a_file_has_sizes_by_the_network_and_stage_2_deepspeeds_own():
    assert DeepSpeedConfig.of_stage(2) == DeepSpeedConfig(2)
    filled = DeepSpeedConfig.of_stage(3).filled(64)["zero_optimization"]
    assert filled == {
        "stage": 3,
        "reduce_bucket_size": 4096,
        "stage3_prefetch_bucket_size": 3686,
        "stage3_param_persistence_threshold": 640,
    }


def test_two_stages_that_differ_are_refused():
    (fault,) = faults({"zero_optimization": {"stage": 2}}, deepspeed_stage="3")
    assert fault == "zero_optimization.stage is 2, while deepspeed_stage is 3. Leave one of both out."


def test_a_section_that_is_off_may_stand():
    assert config({"nebula": {"enabled": False}, "flops_profiler": {"enabled": False}}) == DeepSpeedConfig(2)


VALUE_OF = {
    "train_batch_size": (12, {"per_device_train_batch_size": 3, "number_of_gpu_to_use_finetuning": 4}),
    "train_micro_batch_size_per_gpu": (3, {"per_device_train_batch_size": 3}),
    "gradient_accumulation_steps": (2, {"gradient_accumulation_steps": 2}),
    "gradient_clipping": (0.5, {"max_grad_norm": 0.5}),
    "bf16.enabled": (True, {"precision": "16"}),
    "optimizer.params.lr": (1e-4, {"learning_rate": 1e-4}),
    "optimizer.params.betas": ([0.8, 0.99], {"adam_beta1": 0.8, "adam_beta2": 0.99}),
    "optimizer.params.eps": (1e-6, {"adam_epsilon": 1e-6}),
    "optimizer.params.weight_decay": (0.1, {"weight_decay": 0.1}),
    "scheduler.type": ("WarmupLR", {"lr_scheduler_type": "constant_with_warmup"}),
    "scheduler.params.warmup_max_lr": (1e-4, {"learning_rate": 1e-4}),
    "scheduler.params.warmup_num_steps": (10, {"warmup_steps": 10}),
    "scheduler.params.total_num_steps": (100, {"max_steps": 100}),
}


def nested(key: str, value: object) -> dict:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize("key", VALUE_OF)
def test_a_value_that_a_parameter_has_too_must_be_equal(key):
    value, parameters = VALUE_OF[key]
    config(nested(key, value), **parameters)
    (fault,) = faults(nested(key, value))
    assert fault.startswith(f"{key} is ")
    assert any(name in fault for name in (*parameters, "effective batch", "rows"))


@pytest.mark.parametrize(
    ("body", "values", "fault"),
    [
        pytest.param({"gradient_cliping": 1}, {}, "Did you mean gradient_clipping?", id="an unknown key"),
        pytest.param({"zero_optimization": {"stge": 2}}, {}, "Did you mean stage?", id="an unknown key of a section"),
        pytest.param({"zero_optimization": True}, {}, "zero_optimization is true, expected an object", id="no section"),
        pytest.param({"gradient_clipping": {"a": 1}}, {}, "gradient_clipping is {", id="a section that is none"),
        pytest.param({"amp": {"enabled": True}}, {}, "Apex isn't supported", id="Apex"),
        pytest.param({"zero_optimization": {"zenflow": {}}}, {}, "zenflow is given: it isn't supported", id="ZenFlow"),
        pytest.param({"fp16": {"enabled": True}}, {"precision": "16"}, "float16 isn't supported", id="float16"),
        pytest.param({"bf16": {"enabled": False}}, {"precision": "16"}, "while precision is 16", id="no bfloat16"),
        pytest.param({"optimizer": {"type": "Lamb"}}, {}, "expected one of AdamW, Adam", id="another optimizer"),
        pytest.param({"optimizer": {"type": "AdamW"}}, {"optim": "adafactor"}, "while optim is", id="two optimizers"),
        pytest.param({"optimizer": {"params": {"momentum": 1}}}, {}, "momentum", id="another optimizer's number"),
        pytest.param({"scheduler": {"type": "OneCycle"}}, {}, "set lr_scheduler_type", id="another schedule"),
        pytest.param(
            {"scheduler": {"params": {"warmup_type": "log"}}}, {"warmup_steps": 3}, "is linear", id="a curved warm-up"
        ),
        pytest.param(
            {"scheduler": {"params": {"warmup_num_steps": 5}}}, {"warmup_ratio": 0.1}, "warmup_ratio", id="two warm-ups"
        ),
        pytest.param({"zero_optimization": {"stage": 0}}, {}, "set apply_deepspeed false", id="no sharding"),
        pytest.param({"zero_optimization": {"stage": True}}, {}, "stage is true", id="a stage that is a truth"),
        pytest.param(
            {"zero_optimization": {"offload_param": {"device": "cpu"}}}, {}, "is of stage 3", id="another stage's"
        ),
        pytest.param(
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, {}, "is compiled at the start", id="a disk"
        ),
        pytest.param({"zero_optimization": {"reduce_bucket_size": 0.5}}, {}, "whole number, 1 or more", id="half a size"),
        pytest.param({"zero_optimization": {"overlap_comm": 1}}, {}, "expected true or false", id="a truth"),
        pytest.param({"zero_force_ds_cpu_optimizer": True}, {}, "would be compiled", id="a compiled optimizer"),
        pytest.param({"gradient_clipping": True}, {}, "gradient_clipping is true", id="a truth that equals 1"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(body, values, fault):
    (told,) = faults(body, **values)
    assert fault in told


def test_all_faults_come_at_once():
    body = {"gradient_clipping": 2, "amp": {}, "nonsense": 1, "zero_optimization": {"stage": 9, "overlap_com": True}}
    told = faults(body, apply_deepspeed=False)
    assert len(told) == 6
    assert told[0] == (
        "deepspeed is given while apply_deepspeed is 'false'. Set apply_deepspeed true, or leave it out."
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [("{", "is not JSON"), ("[]", "is a list, expected an object"), ('{"a": 1, "a": 2}', "a is given twice")],
)
def test_a_text_that_is_no_object_is_refused(text, fault):
    with pytest.raises(InvalidFile, match=fault):
        deepspeed_config(text, "deepspeed (zero.json)", VALUES)
