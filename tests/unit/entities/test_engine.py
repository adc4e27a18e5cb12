"""Which engine serves: OpenVINO's runtime unless something speaks against it."""

from dataclasses import replace
from typing import Any

import pytest

from mafunzo.entities.engine import (
    Engine,
    EngineFacts,
    choose,
    engine_named,
    vllm_adapter_fault,
    vllm_faults,
    vllm_lora_rank,
)
from mafunzo.errors import InvalidParameter

FACTS = EngineFacts("llama", weights_mb=500, memory_mb=8000, is_installed=True)


@pytest.mark.parametrize(
    ("asked", "facts", "expected"),
    [
        ("auto", {}, "openvino"),
        ("openvino", {}, "openvino"),
        ("torch", {}, "torch"),
        ("auto", {"processor": "AMD64"}, "openvino"),
        ("openvino", {"has_gpu": True}, "torch (openvino computes on the CPU, and there is a GPU)"),
        ("auto", {"has_gpu": True}, "torch (vllm isn't installed: pip install 'mafunzo[vllm]')"),
        ("auto", {"has_gpu": True, "has_vllm": True}, "vllm"),
        ("auto", {"has_vllm": True}, "openvino"),
        ("vllm", {"has_gpu": True, "has_vllm": True, "has_adapter": True}, "vllm"),
        ("vllm", {"has_vllm": True}, "torch (vllm computes on a GPU, and there is none)"),
        (
            "vllm",
            {"has_gpu": True, "has_vllm": True, "architectures": ("A", "B"), "vllm_architectures": frozenset({"C"})},
            "torch (the vllm that is installed doesn't compute A, B)",
        ),
        (
            "auto",
            {"has_gpu": True, "has_vllm": True, "architectures": ("A", "B"), "vllm_architectures": frozenset({"B"})},
            "vllm",
        ),
        (
            "auto",
            {"has_gpu": True, "has_vllm": True, "adapter_fault": "vllm serves no adapter with DoRA"},
            "torch (vllm serves no adapter with DoRA)",
        ),
        ("auto", {"is_installed": False}, "torch (openvino isn't installed: pip install 'mafunzo[openvino]')"),
        ("auto", {"processor": "aarch64"}, "torch (openvino serves on x86-64, and this is aarch64)"),
        ("openvino", {"has_adapter": True}, "torch (openvino serves no adapter on its base)"),
        ("openvino", {"model_type": "gemma2"}, "torch (openvino isn't known to compute gemma2 exactly)"),
        ("auto", {"model_type": ""}, "torch (openvino isn't known to compute this architecture exactly)"),
        (
            "auto",
            {"weights_mb": 4000},
            "torch (converting it for openvino may take 13,500 MB, and this machine has 8,000)",
        ),
        (
            "auto",
            {"instances": 3},
            "torch (converting it for openvino may take 9,000 MB, and this machine has 8,000)",
        ),
        ("auto", {"weights_mb": 2}, "torch (a network of 2 MB gains nothing from openvino)"),
        ("openvino", {"weights_mb": 2}, "openvino"),
    ],
)
def test_the_engine_follows_from_the_facts(asked: str, facts: dict[str, Any], expected: str) -> None:
    assert str(choose(Engine(asked), replace(FACTS, **facts))) == expected


def test_all_that_speaks_against_vllm_is_told_together() -> None:
    facts = replace(FACTS, adapter_fault="vllm serves no adapter with DoRA")
    assert vllm_faults(facts) == [
        "vllm isn't installed: pip install 'mafunzo[vllm]'",
        "vllm computes on a GPU, and there is none",
        "vllm serves no adapter with DoRA",
    ]


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"r": 16, "bias": "none", "rank_pattern": {}, "use_rslora": True}, ""),
        ({"r": 16, "alpha_pattern": {"q_proj": 4}}, "this one has alpha_pattern"),
        ({"r": 8, "use_dora": True, "bias": "all"}, "vllm serves no adapter with DoRA and bias"),
        ({"r": 1024}, "vllm takes adapters up to rank 512 here, and this one has 1024"),
    ],
)
def test_an_adapter_that_vllm_would_compute_otherwise_is_named(config: dict[str, Any], fault: str) -> None:
    assert fault in vllm_adapter_fault(config)
    assert bool(vllm_adapter_fault(config)) == bool(fault)


def test_vllm_makes_room_for_the_rank_of_the_model_and_of_most_adapters_that_come_later() -> None:
    assert [vllm_lora_rank(config) for config in (None, {"r": 8}, {"r": 65}, {"r": 512})] == [64, 64, 128, 512]


def test_an_unknown_engine_is_refused_with_the_nearest_name() -> None:
    assert engine_named("torch") is Engine.TORCH
    words = r"engine is 'openvno', expected one of auto, torch, openvino, vllm\. Did you mean openvino\?"
    with pytest.raises(InvalidParameter, match=words):
        engine_named("openvno")
