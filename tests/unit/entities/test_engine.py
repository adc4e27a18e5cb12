"""Which engine serves: OpenVINO's runtime unless something speaks against it."""

from dataclasses import replace
from typing import Any

import pytest

from mafunzo.entities.engine import Engine, EngineFacts, choose, engine_named
from mafunzo.errors import InvalidParameter

FACTS = EngineFacts("llama", weights_mb=500, memory_mb=8000, is_installed=True)


@pytest.mark.parametrize(
    ("asked", "facts", "expected"),
    [
        ("auto", {}, "openvino"),
        ("openvino", {}, "openvino"),
        ("torch", {}, "torch"),
        ("auto", {"processor": "AMD64"}, "openvino"),
        ("auto", {"has_gpu": True}, "torch (openvino computes on the CPU, and there is a GPU)"),
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


def test_an_unknown_engine_is_refused_with_the_nearest_name() -> None:
    assert engine_named("torch") is Engine.TORCH
    words = r"engine is 'openvno', expected one of auto, torch, openvino\. Did you mean openvino\?"
    with pytest.raises(InvalidParameter, match=words):
        engine_named("openvno")
