"""Single tokens as text and bytes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.inference.token_text import token_text


@pytest.mark.parametrize("text", ["Hello", " world", "é", "日本", "🇹🇿", "a\n\tb", "<|eot_id|>"])
def test_the_bytes_of_tokens_add_up_to_the_text(tiny_llama: Path, text: str) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    tokens = [token_text(tokenizer, id) for id in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert b"".join(raw for _, raw in tokens) == text.encode()


def test_a_part_of_a_character_is_shown_by_its_bytes(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    first = tokenizer("é", add_special_tokens=False)["input_ids"][0]
    assert token_text(tokenizer, first) == ("bytes:\\xc3", b"\xc3")


@pytest.mark.parametrize(
    ("piece", "text", "expected"),
    [
        pytest.param("▁world", "world", (" world", b" world"), id="SentencePiece's space"),
        pytest.param("<0xE2>", "\ufffd", ("bytes:\\xe2", b"\xe2"), id="byte fallback"),
        pytest.param("日", "日", ("日", "日".encode()), id="a character"),
    ],
)
def test_other_vocabularies(piece: str, text: str, expected: tuple[str, bytes]) -> None:
    tokenizer = SimpleNamespace(decode=lambda ids, **_: text, convert_ids_to_tokens=lambda id: piece)
    assert token_text(tokenizer, 5) == expected
