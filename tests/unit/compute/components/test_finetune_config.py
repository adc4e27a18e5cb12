"""`finetune_config.json` is honoured key by key, or refused by the key's name."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mafunzo.compute.components.finetune_config import apply
from mafunzo.compute.components.tiny_model import make
from mafunzo.errors import InvalidFile, MafunzoError, NotSupported


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder of a tiny Llama, as it was imported."""
    make("tiny-llama", 1, tmp_path / "mine")
    return tmp_path / "mine"


def config_file(tmp_path: Path, **body: object) -> Path:
    path = tmp_path / "finetune_config.json"
    path.write_text(json.dumps(body))
    return path


def refusal(path: Path, folder: Path, kind: type[MafunzoError]) -> MafunzoError:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(kind) as caught:
        apply(path, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    return caught.value


def test_a_users_chat_template_and_tokens_replace_the_models(folder: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    apply(config_file(tmp_path, chat_template=template, special_tokens={"eos_token": "<|end_of_text|>"}), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "user: Hi<|end_of_text|>"


@pytest.mark.parametrize("token", ["<|end_of_text|>", {"content": "<|end_of_text|>", "lstrip": False}])
def test_a_special_token_is_a_text_or_an_object_around_one(token: Any, folder: Path, tmp_path: Path) -> None:
    apply(config_file(tmp_path, special_tokens={"eos_token": token}), folder)
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|end_of_text|>"


def test_every_key_that_is_not_honoured_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    error = refusal(config_file(tmp_path, lora_algo="auto", chat_templat="x", zzz=1), folder, NotSupported)
    assert error.faults == (
        "lora_algo: LoRA has one implementation here; leave it out.",
        "chat_templat: not known. Did you mean chat_template?",
        "zzz: not known.",
    )


def test_special_tokens_of_other_names_or_kinds_are_named_at_once(folder: Path, tmp_path: Path) -> None:
    error = refusal(config_file(tmp_path, special_tokens={"mask_token": "x", "pad_token": 7}), folder, InvalidFile)
    assert error.faults == (
        "special_tokens.mask_token: expected one of bos_token, eos_token, pad_token, unk_token.",
        "special_tokens.pad_token is 7, expected a text.",
    )


def test_a_special_token_outside_of_the_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    error = refusal(config_file(tmp_path, special_tokens={"pad_token": "<pad>"}), folder, InvalidFile)
    assert error.faults == ("pad_token is '<pad>'.",) and "no embedding" in error.message


@pytest.mark.parametrize(
    ("template", "text"),
    [
        pytest.param("line one\n{% if %}", "chat_template, line 2", id="broken"),
        pytest.param("  ", 'chat_template is "  ", expected a Jinja template', id="empty"),
        pytest.param(["x"], 'chat_template is ["x"], expected a Jinja template', id="a list of templates"),
    ],
)
def test_a_chat_template_that_is_none_is_refused(template: Any, text: str, folder: Path, tmp_path: Path) -> None:
    assert text in refusal(config_file(tmp_path, chat_template=template), folder, InvalidFile).message


def test_transformers_own_generation_tags_are_kept_and_no_fault(folder: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{%- generation -%}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    apply(config_file(tmp_path, chat_template=template), folder)
    assert (folder / "chat_template.jinja").read_text() == template


def test_a_template_inside_of_the_tokenizer_s_configuration_gives_way(folder: Path, tmp_path: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "old"}))
    apply(config_file(tmp_path, chat_template="{{ messages[0]['content'] }}"), folder)
    assert "chat_template" not in json.loads(path.read_text())


def test_azures_markers_of_turns_are_accepted_only_if_the_template_writes_them(folder: Path, tmp_path: Path) -> None:
    right = {
        "instruction_template": "<|start_header_id|>user<|end_header_id|>",
        "response_template": {"content": "<|start_header_id|>assistant<|end_header_id|>"},
    }
    apply(config_file(tmp_path, chat_special_tokens=right), folder)
    wrong = {"response_template": "### Assistant:", "system_template": "x"}
    error = refusal(config_file(tmp_path, chat_special_tokens=wrong), folder, InvalidFile)
    assert [fault.split(" ")[0] for fault in error.faults] == [
        "chat_special_tokens.response_template",
        "chat_special_tokens.system_template:",
    ]
    assert "### Assistant:" in error.faults[0]


def test_a_file_that_is_no_json_object_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "finetune_config.json").write_text("[]")
    assert "expected a JSON object" in refusal(tmp_path / "finetune_config.json", folder, InvalidFile).message
