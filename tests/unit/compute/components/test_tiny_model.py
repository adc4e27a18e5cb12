"""Tiny models are real ones: the same seed gives the same bytes, and each template what its family's has."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mafunzo.compute.components.tiny_model import RECIPES, make
from mafunzo.compute.model.folder import weights_sha256
from mafunzo.errors import NotFound

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


@pytest.mark.parametrize("name", RECIPES)
def test_a_seed_decides_the_weights(name: str, tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        make(name, seed, tmp_path / folder)
    same, again, other = (weights_sha256(tmp_path / folder) for folder in "abc")
    assert same == again != other


def test_an_unknown_recipe_is_named_beside_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No tiny model is called 'tiny-gpt', expected one of tiny-llama, tiny-phi3"):
        make("tiny-gpt", 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_llama_s_tokenizer_would_write_the_beginning_a_second_time(tmp_path: Path) -> None:
    make("tiny-llama", 0, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert text.count("<|begin_of_text|>") == 1
    assert tokenizer(text)["input_ids"][:2] == [tokenizer.bos_token_id] * 2


def test_phi3_s_template_ends_a_whole_conversation_with_a_further_token(tmp_path: Path) -> None:
    make("tiny-phi3", 0, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.apply_chat_template(TURNS, tokenize=False).endswith("Hello!<|end|>\n<|endoftext|>")
