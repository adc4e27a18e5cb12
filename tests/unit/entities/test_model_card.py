"""Tests of `mafunzo.entities.model_card`: what a card may say, and every fault of one that may not."""

from typing import Any

import pytest

from mafunzo.entities.model_card import model_card_from_dict
from mafunzo.errors import InvalidFile

CARD: dict[str, Any] = {
    "name": "tiny",
    "version": "1",
    "display_name": "Tiny",
    "description": "A tiny one.",
    "licence": "mit",
    "parameters": 1000,
    "context_length": 128,
    "architecture": "llama",
    "source": {"kind": "hub", "repo": "org/tiny"},
    "chat_template": {"end_of_turn": "</s>", "has_system_role": True},
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"kind": "hub", "repo": "org/tiny"}, "hub:org/tiny"),
        ({"kind": "made", "recipe": "llama"}, "made:llama"),
        (
            {"kind": "pypi", "package": "p", "version": "2", "sha256": "0" * 64, "file": "f", "quantization": "q4_1"},
            "pypi:p==2",
        ),
    ],
)
def test_a_source_says_in_a_word_what_it_is(source: dict[str, Any], text: str) -> None:
    assert str(model_card_from_dict({**CARD, "source": source}, "tiny.yml").source) == text


def test_all_faults_of_a_card_are_told_at_once() -> None:
    body = {**CARD, "parameters": 0, "colour": "red", "source": {"kind": "hub", "repo": "tiny"}}
    with pytest.raises(InvalidFile, match=r"tiny\.yml: not a model card") as refusal:
        model_card_from_dict(body, "tiny.yml")
    assert len(refusal.value.faults) == 3
    for name in ("parameters", "colour", "repo"):
        assert any(name in fault for fault in refusal.value.faults)
