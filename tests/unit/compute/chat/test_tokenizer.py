"""Loading a tokenizer from a folder: what is missing is said, and nothing in it runs."""

import json
from pathlib import Path

import pytest

from mafunzo.compute.chat.tokenizer import context_length, load_tokenizer, padding_id
from mafunzo.errors import InvalidFile, UnsafeModel
from tests.support.chat_families import family


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    family("smollm2").save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_tokenizer_comes_back_with_its_template(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat_template == family("smollm2").chat_template
    assert tokenizer.get_vocab() == family("smollm2").get_vocab()


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="has no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_base_model_without_template_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InvalidFile, match="has no chat template: it is a base model"):
        load_tokenizer(folder)


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidFile, match="can't be loaded"):
        load_tokenizer(folder)


def test_code_in_the_folder_doesnt_run(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["own.Own", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnsafeModel, match="set trust_remote_code to true"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "tokenizer_limit, config, expected",
    [
        pytest.param(100, {}, 100, id="tokenizer"),
        pytest.param(10**30, {"max_position_embeddings": 64}, 64, id="configuration"),
        pytest.param(100, {"max_position_embeddings": 64}, 64, id="the smaller"),
        pytest.param(10**30, {"text_config": {"max_position_embeddings": 32}}, 32, id="nested"),
        pytest.param(10**30, {}, None, id="nobody knows"),
    ],
)
def test_the_longest_input_is_the_smaller_limit(
    folder: Path, tokenizer_limit: int, config: dict[str, object], expected: int | None
) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    tokenizer.model_max_length = tokenizer_limit
    assert context_length(tokenizer, folder) == expected


def test_padding_falls_back_to_the_end_of_text() -> None:
    tokenizer = family("phi3")
    assert tokenizer.pad_token_id is None
    assert padding_id(tokenizer) == tokenizer.eos_token_id
