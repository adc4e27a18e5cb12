"""`finetune_config.json`: a user's own chat template and special tokens for a model, as Azure ML calls the file.

A key is honoured or refused by its name; none is ignored.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mafunzo.compute.model.folder import drop_keys, read_json
from mafunzo.errors import Faults, InvalidFile, NotSupported, did_you_mean
from mafunzo.tracking.atomic_json import write_json

HONOURED = ("chat_template", "special_tokens", "chat_special_tokens")
TOKEN_KEYS = ("bos_token", "eos_token", "pad_token", "unk_token")
REFUSED = {
    "finetune_chat_template": "a template for training only would make serving differ from training; use chat_template",
    "system_role_supported": "whether a system message is rendered is up to the chat template; use chat_template",
    "lora_target_modules": "it is a parameter of the job: set lora_target_modules there",
    "lora_algo": "LoRA has one implementation here; leave it out",
    "load_tokenizer_kwargs": "change the tokenizer's own tokenizer_config.json instead",
    "load_config_kwargs": "change the model's own config.json instead",
    "load_model_kwargs": "set precision and the other parameters of the job instead",
    "model_resize_embeddings_kwargs": "the vocabulary isn't resized here",
    "hf_trainer_args": "set the parameters of the job instead",
}
_GENERATION_TAG = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
"""transformers' own tag, which plain Jinja doesn't know."""


def apply(path: Path, folder: Path) -> None:
    """Write the chat template and special tokens of the JSON file `path` into the model in `folder`.

    Raises `NotSupported` naming every unsupported key, and `InvalidFile` for unusable values.
    """
    body = read_json(path)
    faults = Faults()
    faults.add(*(_refusal(key) for key in body if key not in HONOURED))
    faults.require_none(f"{path.name} has keys that aren't honoured. Take them out.", NotSupported)
    tokens = _tokens(path, body.get("special_tokens") or {})
    _check_vocabulary(path, folder, tokens)
    if tokens:
        tokenizer_config = folder / "tokenizer_config.json"
        write_json(tokenizer_config, {**read_json(tokenizer_config), **tokens}, indent=2, ensure_ascii=False)
    if "chat_template" in body:
        _write_template(path, body["chat_template"], folder)
    if body.get("chat_special_tokens"):
        _check_markers(path, body["chat_special_tokens"], folder)


def _refusal(key: str) -> str:
    if key in REFUSED:
        return f"{key}: {REFUSED[key]}."
    return f"{key}: not known.{did_you_mean(key, HONOURED)}"


def _tokens(path: Path, special_tokens: Mapping[str, Any]) -> dict[str, str]:
    """Return special tokens by name as texts."""
    faults = Faults()
    faults.add(
        *(
            f"special_tokens.{key}: expected one of {', '.join(TOKEN_KEYS)}."
            for key in special_tokens
            if key not in TOKEN_KEYS
        )
    )
    texts = {key: _text(value) for key, value in special_tokens.items()}
    faults.add(
        *(
            f"special_tokens.{key} is {special_tokens[key]!r}, expected a text."
            for key, text in texts.items()
            if not text
        )
    )
    faults.require_none(f"{path.name}: special tokens that can't be used.", InvalidFile)
    return texts


def _check_vocabulary(path: Path, folder: Path, tokens: Mapping[str, str]) -> None:
    if not tokens:
        return
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(str(folder), local_files_only=True).get_vocab()
    faults = Faults()
    faults.add(*(f"{key} is '{token}'." for key, token in tokens.items() if token not in vocabulary))
    faults.require_none(
        f"{path.name}: special tokens that the model has no embedding for. Choose tokens of its vocabulary.",
        InvalidFile,
    )


def _write_template(path: Path, template: Any, folder: Path) -> None:
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if not isinstance(template, str) or not template.strip():
        raise InvalidFile(f"{path.name}: chat_template is {json.dumps(template)}, expected a Jinja template as a text.")
    try:
        plain = _GENERATION_TAG.sub("", template)
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).from_string(plain)
    except TemplateSyntaxError as error:
        raise InvalidFile(f"{path.name}: chat_template, line {error.lineno}: {error.message}") from error
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    drop_keys(folder / "tokenizer_config.json", "chat_template")


def _check_markers(path: Path, markers: Any, folder: Path) -> None:
    """See that Azure's markers of turns are what the template writes: labels follow the template itself here."""
    from mafunzo.compute.chat.template import render
    from mafunzo.compute.chat.tokenizer import load_tokenizer
    from mafunzo.entities.conversation import Conversation, Message

    question, answer = "What is asked", "What is answered"
    turns = Conversation((Message("user", question), Message("assistant", answer)))
    text = render(load_tokenizer(folder), turns)
    before = {
        "instruction_template": text.partition(question)[0],
        "response_template": text.partition(question)[2].partition(answer)[0],
    }
    faults = Faults()
    for key, value in dict(markers).items():
        marker = _text(value)
        if key not in before:
            faults.add(f"chat_special_tokens.{key}: expected instruction_template or response_template.")
        elif not marker or marker.strip() not in before[key]:
            faults.add(f"chat_special_tokens.{key} is {value!r}, which the chat template doesn't write there.")
    faults.require_none(f"{path.name}: markers that don't fit the chat template {before}.", InvalidFile)


def _text(value: Any) -> str:
    """Return a token given as a text, or as Azure's or transformers' object around one."""
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else ""
