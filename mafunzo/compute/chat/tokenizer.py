"""Tokenizer loading: a model's fast tokenizer with its chat template, running no code of the folder."""

import json
from pathlib import Path
from typing import Any

from mafunzo.errors import InvalidFile, UnsafeModel

UNLIMITED = 1_000_000
"""A `model_max_length` of at least this means that the tokenizer has no limit."""


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """Return the fast tokenizer of a Hugging Face folder; nothing is downloaded.

    Raises `InvalidFile` where there is no tokenizer, no fast one or no chat template, and `UnsafeModel` where loading it
    would run Python code from the folder without `trust_remote_code`.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise InvalidFile(f"{folder} has no tokenizer (tokenizer.json, tokenizer_config.json).")
    if _needs_code(folder) and not trust_remote_code and not (folder / "tokenizer.json").exists():
        raise UnsafeModel(
            f"The tokenizer in {folder} needs Python code of its own. Read it, then set trust_remote_code to true."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError, KeyError, json.JSONDecodeError) as error:
        raise InvalidFile(f"{folder}: the tokenizer can't be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise InvalidFile(
            f"{folder} has no tokenizer.json, which is what says where in the text each token stands. "
            "Convert it with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...))."
        )
    if not tokenizer.chat_template:
        raise InvalidFile(
            f"{folder} has no chat template: it is a base model, not a chat model. "
            "Choose its -Instruct version, or put a chat_template.jinja into the folder."
        )
    return tokenizer


def context_length(tokenizer: Any, folder: Path) -> int | None:
    """Return the context length in tokens: the smaller of the tokenizer's and the configuration's limit, or None."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < UNLIMITED else []
    config = folder / "config.json"
    if config.exists():
        body = json.loads(config.read_text(encoding="utf-8"))
        limit = body.get("max_position_embeddings") or (body.get("text_config") or {}).get("max_position_embeddings")
        limits += [int(limit)] if limit else []
    return min(limits, default=None)


def padding_id(tokenizer: Any) -> int:
    """Return the token that pads rows: the padding token, else the end-of-text token. It is always outside the loss mask."""
    token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if token_id is None:
        raise InvalidFile(
            "The tokenizer has neither a padding nor an end-of-text token. Set pad_to_max_length to false."
        )
    return int(token_id)


def _needs_code(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    return config.exists() and "AutoTokenizer" in (json.loads(config.read_text(encoding="utf-8")).get("auto_map") or {})
