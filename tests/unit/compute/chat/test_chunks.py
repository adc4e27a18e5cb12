"""Ids by chunks against those that the tokenizer gives for the whole text, for every kind of tokenizer that has chunks."""

import json
import random
from bisect import bisect_left
from functools import cache
from operator import itemgetter
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from mafunzo.compute.chat import chunks
from mafunzo.compute.chat.chunks import KNOWN_RULES, ChunkTokenizer, has_chunks

CORPUS = [
    "It's late, isn't it? The cat sat on the mat; 23 cats, 1,456 mats.\nI'm here.\n\nSo... what? ",
    "def f(a, b):\n    return a + b  # sum\n\ttabs and  spaces\r\nEl niño comió piñas. Straße, 你好世界!",
] * 20
ADDED = ("<a>", "<a>b", "<|im_end|>")
ALPHABET = (
    *"   \n\tabé._/#!?,'1",
    *("  ", "\n\n", "\r\n", "\xa0", "\u2003", "\x1c", "\x85", "\u200b", "\u0301", "e\u0301", "\u0300 "),
    *("cat", " the", "'s", "I'm", "'LL", "23", "4567", "...", "niño", "iPhone", "你好", "👍", "👩‍👧", "Ⅷ", "²", "ǅ"),
    *("<a>", "<a>b", "<|im_end|>", "<|im", "<", "▁", "word, word. ", "x.y"),
)


def byte_level(splitter: Any, normalizer: Any = None, **flags: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return trained(tokenizer, sorted(pre_tokenizers.ByteLevel.alphabet()), [], **flags)


def sentence_piece(normalizer: Any, splitter: dict[str, Any] | None = None, **flags: Any) -> Tokenizer:
    """Return a tokenizer that splits nothing, whose vocabulary was learned from words."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    words = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Split("\n", "isolated")])
    body = json.loads(trained(tokenizer, [], ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁▁"], **flags).to_str())
    body["added_tokens"] = [token for token in body["added_tokens"] if token["content"] in ADDED]
    return Tokenizer.from_str(json.dumps(body | {"pre_tokenizer": splitter}))


def trained(tokenizer: Tokenizer, alphabet: list[str], special: list[str], **flags: Any) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, **{"normalized": False} | flags) for text in ADDED])
    return tokenizer


@cache
def rule(number: int, is_composed: bool = False, **flags: Any) -> Tokenizer:
    split = pre_tokenizers.Split(Regex(sorted(KNOWN_RULES)[number]), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    normalizer = normalizers.NFC() if is_composed else None
    return byte_level(pre_tokenizers.Sequence([split, to_bytes]), normalizer, **flags)


SPACES = normalizers.Replace(" ", "▁")
IDLE = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
DIGITS = pre_tokenizers.Digits(individual_digits=True)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
KINDS = {
    "gpt2": lambda: byte_level(GPT2),
    "digits": lambda: byte_level(pre_tokenizers.Sequence([DIGITS, GPT2])),
    **{f"rule {number}": lambda number=number: rule(number) for number in range(len(KNOWN_RULES))},
    "rule, composed": lambda: rule(2, is_composed=True),
    "rule, swallowing": lambda: rule(1, rstrip=True),
    "rule, swallowing before": lambda: rule(1, lstrip=True),
    "llama 2": lambda: sentence_piece(normalizers.Sequence([normalizers.Prepend("▁"), SPACES]), rstrip=True),
    "gemma": lambda: sentence_piece(SPACES, IDLE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_first_tokens_are_those_of_the_whole_text(kind: str) -> None:
    backend = KINDS[kind]()
    assert has_chunks(backend)
    tokenizer, draw = ChunkTokenizer(backend), random.Random(kind)
    for _ in range(400):
        text = "".join(draw.choices(ALPHABET, k=draw.randrange(14)))
        places = sorted(draw.choices(range(len(text) + 1), k=3))
        whole = backend.encode(text, add_special_tokens=False)
        ids, tokens = tokenizer.encode(text, places)
        assert ids.tolist() == whole.ids, repr(text)
        expected = [bisect_left(whole.offsets, place, key=itemgetter(0)) for place in places]
        assert tokens == expected, (repr(text), places)


def test_what_is_forgotten_is_tokenized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CACHED_CHUNKS", 3)
    monkeypatch.setattr(chunks, "CACHED_LENGTH", 6)
    backend = rule(0)
    tokenizer = ChunkTokenizer(backend)
    for text in [*CORPUS[:2], "a b c a b c", *CORPUS[:2]]:
        assert tokenizer.encode(text, [1])[0].tolist() == backend.encode(text, add_special_tokens=False).ids
        assert len(tokenizer._chunks) <= 3


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)), id="writes a space in front"),
        pytest.param(lambda: byte_level(pre_tokenizers.Metaspace()), id="another splitter"),
        pytest.param(lambda: byte_level(pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated")), id="another rule"),
        pytest.param(lambda: byte_level(GPT2, normalizers.NFKC()), id="another normalizer"),
        pytest.param(lambda: byte_level(GPT2, normalizers.NFC(), normalized=True), id="normalizes its added tokens"),
        pytest.param(lambda: byte_level(GPT2, single_word=True), id="looks at what stands beside its added tokens"),
        pytest.param(
            lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)), id="joins words"
        ),
        pytest.param(lambda: byte_level(pre_tokenizers.Split(" ", "merged_with_previous")), id="ends words on spaces"),
    ],
)
def test_a_tokenizer_of_which_it_isnt_proven_gets_no_chunks(make: Any) -> None:
    assert not has_chunks(make())
