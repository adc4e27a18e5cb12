"""Stop tokens: which token ids end a reply (EOS, end of turn)."""

from collections.abc import Iterable
from typing import Any

from mafunzo.compute.chat.template import render
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.errors import InvalidData

_ANSWER = "Xq7"


def stop_token_ids(tokenizer: Any, generation_config: Any = None) -> tuple[int, ...]:
    """Return the tokens at which a reply ends, sorted: what `generation_config.json` says, the tokenizer's end of text, and
    the end of a turn in the chat template, which a model is trained to write even where the other two don't know it."""
    ids = set(_listed(getattr(generation_config, "eos_token_id", None)))
    ids |= set(_listed(tokenizer.eos_token_id))
    end_of_turn = end_of_turn_id(tokenizer)
    return tuple(sorted(ids if end_of_turn is None else {*ids, end_of_turn}))


def end_of_turn_id(tokenizer: Any) -> int | None:
    """Return the special token that the chat template writes right after an answer, None where it writes no such token."""
    conversation = Conversation((Message("user", "Hello"), Message("assistant", _ANSWER)))
    try:
        text = render(tokenizer, conversation)
    except InvalidData:
        return None
    suffix = text.rpartition(_ANSWER)[2]
    ids = tokenizer(suffix.lstrip(), add_special_tokens=False)["input_ids"]
    return int(ids[0]) if ids and ids[0] in tokenizer.added_tokens_decoder else None


def _listed(value: int | Iterable[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
