"""Text as it comes."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.inference.detokenizer import Detokenizer, StopStrings, token_text

TEXTS = [
    "Hello, how are you today?",
    "Grüße aus Köln — naïve café",
    "数学は楽しい。日本語のテキスト",
    "family 👨‍👩‍👧‍👦 and flags 🇹🇿🇰🇪 done",
    "  leading, \n\n newlines and\ttabs  ",
    "",
]


@pytest.fixture(scope="module")
def byte_level(tiny_llama: Path) -> Any:
    return load_tokenizer(tiny_llama)


@pytest.fixture(scope="module")
def byte_fallback() -> Any:
    """A tokenizer in SentencePiece's manner: words begin with a low line, other characters fall back to bytes."""
    words = ["▁Hello", "▁world", ",", "▁how", "▁", "a", "b", "é"]
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], *words])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.add(id) for id in ids), detokenizer.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_add_up_to_the_text_and_no_character_is_split(byte_level: Any, text: str) -> None:
    deltas = pieces(byte_level, byte_level(text, add_special_tokens=False)["input_ids"])
    assert "".join(deltas) == text
    assert "\ufffd" not in "".join(deltas)


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_come_out_as_the_tokenizer_decodes_them_whole(byte_level: Any, seed: int) -> None:
    draw = random.Random(seed)
    ids = [draw.randrange(len(byte_level)) for _ in range(200)]
    assert "".join(pieces(byte_level, ids)) == byte_level.decode(ids, skip_special_tokens=True)


def test_spaces_before_words_are_kept(byte_fallback: Any) -> None:
    ids = byte_fallback.convert_tokens_to_ids(["▁Hello", "▁world", ",", "▁how"])
    assert pieces(byte_fallback, ids) == ["Hello", " world", ",", " how", ""]


def test_a_character_in_bytes_comes_once_it_is_whole(byte_fallback: Any) -> None:
    tokens = ["▁Hello", "<0xE2>", "<0x82>", "<0xAC>", "a", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "b"]
    ids = byte_fallback.convert_tokens_to_ids(tokens)
    assert pieces(byte_fallback, ids) == ["Hello", "", "", "€", "a", "", "", "", "😀", "b", ""]


def test_a_reply_cut_within_a_character_shows_that_something_is_missing(byte_level: Any) -> None:
    ids = byte_level("ok 日", add_special_tokens=False)["input_ids"][:-1]
    assert "".join(pieces(byte_level, ids)) == "ok \ufffd"


def test_special_tokens_have_no_text(byte_level: Any) -> None:
    stop = byte_level.convert_tokens_to_ids("<|eot_id|>")
    ids = byte_level("Hi", add_special_tokens=False)["input_ids"]
    assert "".join(pieces(byte_level, [stop, *ids, stop, *ids])) == "HiHi"


@pytest.mark.parametrize(
    ("stops", "deltas", "output", "match"),
    [
        pytest.param(["END"], ["abc", "def"], "abcdef", None, id="none"),
        pytest.param(["END"], ["abcEND", "def"], "abc", "END", id="within a piece"),
        pytest.param(["END"], ["abcE", "N", "Dxyz"], "abc", "END", id="across pieces"),
        pytest.param(["END"], ["abcE", "N", "E", "ND"], "abcEN", "END", id="after a false start"),
        pytest.param(["aab"], ["aaa", "ab"], "aa", "aab", id="overlapping itself"),
        pytest.param(["\n\n", "User:"], ["hi\n", "Us", "er:", "x"], "hi\n", "User:", id="the first of several"),
        pytest.param(["bc", "abcd"], ["ab", "cd"], "a", "bc", id="the first that is complete"),
        pytest.param([""], ["abc"], "abc", None, id="an empty one never matches"),
    ],
)
def test_stop_strings_cut_the_text(stops: list[str], deltas: list[str], output: str, match: str | None) -> None:
    strings = StopStrings(stops)
    text = ""
    for piece in deltas:
        text += strings.add(piece)
        if strings.match is not None:
            break
    else:
        text += strings.finish()
    assert (text, strings.match) == (output, match)


def test_text_is_kept_back_only_while_it_may_begin_a_stop_string() -> None:
    strings = StopStrings(["</end>"])
    assert strings.add("a </e") == "a "
    assert strings.add("x") == "</ex"


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
