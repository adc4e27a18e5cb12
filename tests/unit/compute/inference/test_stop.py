"""Which tokens end a reply."""

from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import GenerationConfig

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.inference.stop import end_of_turn_id, stop_token_ids


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param(
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|turn|>\n{% endfor %}", "<|turn|>", id="a token"
        ),
        pytest.param(
            "{% for m in messages %}{{ m.content }}\n <|turn|>{% endfor %}", "<|turn|>", id="after a line break"
        ),
        pytest.param("{% for m in messages %}{{ m.content }}\n\n{% endfor %}", None, id="no token"),
        pytest.param("{{ raise_exception('never') }}", None, id="a template that refuses"),
    ],
)
def test_the_end_of_a_turn_is_read_off_the_template(tiny_llama: Path, template: str, expected: str | None) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    tokenizer.chat_template = template
    token_id = None if expected is None else tokenizer.convert_tokens_to_ids(expected)
    assert end_of_turn_id(tokenizer) == token_id
    assert set(stop_token_ids(tokenizer)) == {tokenizer.eos_token_id} | ({token_id} if token_id is not None else set())


@pytest.mark.parametrize("eos_token_id", [7, [7, 8]])
def test_the_settings_may_name_one_token_or_several(tiny_llama: Path, eos_token_id: int | list[int]) -> None:
    ids = stop_token_ids(load_tokenizer(tiny_llama), GenerationConfig(eos_token_id=eos_token_id))
    assert set(ids) > {7}
    assert (8 in ids) == isinstance(eos_token_id, list)
    assert list(ids) == sorted(ids)
