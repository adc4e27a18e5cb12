"""Conversations that are too long: split by their turns, no trained token lost."""

from typing import Any

import pytest

from mafunzo.compute.chat.examples import Encoder, Example, Unusable, pieces
from mafunzo.compute.chat.long_rows import examples_of
from mafunzo.entities.conversation import Conversation, conversation_from_dict
from tests.support.chat_families import encoder, family


def talk(exchanges: int, words: int = 3, system: bool = True, **answer: Any) -> Conversation:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be kind."}] if system else []
    for number in range(exchanges):
        messages.append({"role": "user", "content": f"Question {number}?"})
        messages.append({"role": "assistant", "content": " ".join([f"word{number}"] * words), **answer})
    return conversation_from_dict({"messages": messages})


def parts(conversation: Conversation, limit: int, name: str = "smollm2") -> list[Example]:
    result = examples_of(encoder(family(name)), conversation, limit, "split")
    assert not isinstance(result, Unusable)
    return result


def trained_text(examples: list[Example]) -> str:
    return "".join(str(piece["text"]) for example in examples for piece in pieces(example) if piece["trained"])


@pytest.mark.parametrize("name", ["smollm2", "llama3", "qwen2_5"])
@pytest.mark.parametrize("limit", [40, 70, 150])
def test_parts_fit_begin_as_a_prompt_does_and_lose_nothing(name: str, limit: int) -> None:
    conversation = talk(9)
    whole = parts(conversation, 10_000, name)
    split = parts(conversation, limit, name)
    assert len(whole) == 1 and len(split) > 1
    assert all(len(part.ids) <= limit for part in split)
    assert trained_text(split) == trained_text(whole)
    assert sum(part.assistant_tokens for part in split) == whole[0].assistant_tokens


def test_each_part_is_the_conversation_of_its_exchanges() -> None:
    conversation = talk(4)
    tokenizer = family("smollm2")
    alone = [conversation.messages[0], *conversation.messages[3:5]]
    expected = encoder(tokenizer).encode([Conversation(tuple(alone), ())], None)[0]
    assert isinstance(expected, Example)
    split = parts(conversation, len(expected.ids) + 1)
    assert len(split) == 4 and split[1] == expected


def test_an_exchange_that_is_too_long_alone_is_cut_into_windows() -> None:
    conversation = talk(2, words=60, system=False)
    whole, split = parts(conversation, 10_000)[0], parts(conversation, 32)
    assert all(len(part.ids) <= 32 for part in split)
    assert trained_text(split) == trained_text([whole])
    counted = sum(label != -100 for part in split for label in part.labels[1:])
    assert counted == whole.assistant_tokens


def test_everything_loses_no_token_either() -> None:
    split = examples_of(Encoder(family("smollm2"), "everything"), talk(1, words=60), 32, "split")
    whole = examples_of(Encoder(family("smollm2"), "everything"), talk(1, words=60), None, "split")
    assert not isinstance(split, Unusable) and not isinstance(whole, Unusable)
    assert sum(part.assistant_tokens for part in split) == len(whole[0].ids)


def test_exchanges_with_nothing_to_learn_make_no_part() -> None:
    conversation = talk(6)
    messages = [message.as_dict() for message in conversation.messages]
    for index in (2, 4, 6, 8):
        messages[index]["weight"] = 0
    split = parts(conversation_from_dict({"messages": messages}), 60)
    assert "word0" not in trained_text(split) and "word4" in trained_text(split) and "word5" in trained_text(split)


def test_a_row_is_dropped_or_truncated_where_that_is_asked_for() -> None:
    coder = encoder(family("smollm2"))
    dropped = examples_of(coder, talk(9), 40, "drop")
    assert isinstance(dropped, Unusable) and dropped.is_too_long
    cut = examples_of(coder, talk(9), 80, "truncate")
    assert not isinstance(cut, Unusable) and [len(example.ids) for example in cut] == [80]
    short = examples_of(coder, talk(1), 400, "drop")
    assert not isinstance(short, Unusable) and len(short) == 1
