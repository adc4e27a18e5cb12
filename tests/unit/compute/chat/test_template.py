"""Rendering: the template's own words in errors, and OpenAI's fields as templates expect them."""

import copy

import pytest

from mafunzo.compute.chat.template import render, render_ids, render_messages, template_messages
from mafunzo.entities.conversation import conversation_from_dict
from mafunzo.errors import InvalidData
from tests.support.chat_families import FAMILIES, family, make_tokenizer

TALK = conversation_from_dict(
    {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]}
)


def test_a_generation_prompt_is_the_header_of_the_assistant() -> None:
    conversation = conversation_from_dict({"messages": [{"role": "user", "content": "Hi."}]})
    tokenizer = family("phi3")
    assert render(tokenizer, conversation, add_generation_prompt=True) == "<|user|>\nHi.<|end|>\n<|assistant|>\n"
    assert tokenizer.decode(render_ids(tokenizer, conversation, add_generation_prompt=True)).startswith("<|user|>")


def test_arguments_of_a_call_become_an_object() -> None:
    body = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}]}
    conversation = conversation_from_dict({"messages": [{"role": "user", "content": "x"}, body]})
    assert template_messages(family("qwen2_5"), conversation)[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


@pytest.mark.parametrize("function", [{}, *({"arguments": a} for a in ({}, "{}", "", " ", None, "null", [], "[]"))])
def test_a_call_without_arguments_has_an_empty_object_however_it_is_written(function: dict[str, object]) -> None:
    body = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "now", **function}}]}
    conversation = conversation_from_dict({"messages": [{"role": "user", "content": "x"}, body]})
    assert template_messages(family("qwen2_5"), conversation)[1]["tool_calls"][0]["function"]["arguments"] == {}
    assert '{"name": "now", "arguments": {}}' in render(family("qwen2_5"), conversation)


def test_arguments_that_arent_json_are_named() -> None:
    body = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{a"}}]}
    conversation = conversation_from_dict({"messages": [{"role": "user", "content": "x"}, body]})
    with pytest.raises(InvalidData, match="arguments of the tool call 'f' aren't JSON"):
        template_messages(family("qwen2_5"), conversation)


def test_developer_is_system_unless_the_template_knows_it() -> None:
    conversation = conversation_from_dict(
        {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi."}]}
    )
    assert template_messages(family("phi3"), conversation)[0]["role"] == "system"
    knows = make_tokenizer(
        "{% for m in messages %}{% if m.role == 'developer' %}D{% endif %}{% endfor %}", None, "<e>", ["<e>"]
    )
    assert render(knows, conversation) == "D"


def test_a_refusal_names_the_template_and_keeps_its_words() -> None:
    conversation = conversation_from_dict(
        {"messages": [{"role": "system", "content": "x"}, *TALK.as_dict()["messages"]]}
    )
    with pytest.raises(InvalidData, match="the chat template of gemma refuses it: System role not supported"):
        render(family("gemma"), conversation)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_plain_messages_are_rendered_as_apply_chat_template_does(name: str) -> None:
    tokenizer = family(name)
    turns = [
        ("user", "Hi. "),
        ("assistant", "<think>\nHm.\n</think>\n\nHello!"),
        ("user", "\nBye."),
        ("assistant", "é"),
    ]
    messages = [{"role": role, "content": text} for role, text in turns]
    for count, prompts in ((4, False), (3, True), (1, True)):
        expected = tokenizer.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=prompts)
        assert render_messages(tokenizer, messages[:count], None, prompts) == expected


def test_a_tokenizer_that_renders_in_its_own_way_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = copy.copy(family("smollm2"))
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *_, **__: "its own")
    assert render_messages(tokenizer, [{"role": "user", "content": "Hi."}], None) == "its own"
