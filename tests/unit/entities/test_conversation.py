"""Tests of `mafunzo.entities.conversation`: OpenAI's JSON there and back."""

from typing import Any

import pytest

from mafunzo.entities.conversation import Message, conversation_from_dict, message_from_dict

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"role": "user", "content": "Hello"}, id="words"),
        pytest.param({"role": "user", "content": ""}, id="no words"),
        pytest.param({"role": "assistant", "tool_calls": [CALL]}, id="calls without words"),
        pytest.param({"role": "tool", "content": "3", "tool_call_id": "1", "name": "f"}, id="a tool's answer"),
        pytest.param({"role": "assistant", "content": "a", "reasoning": "b"}, id="what a template may ask for"),
    ],
)
def test_a_message_comes_back_as_it_was(body: dict[str, Any]) -> None:
    assert message_from_dict(body).as_dict() == body


def test_keys_without_a_value_count_as_absent() -> None:
    body = {"role": "assistant", "content": None, "tool_calls": None, "name": None, "weight": None}
    assert message_from_dict(body) == Message("assistant")


def test_tools_stand_in_a_conversation_only_where_there_are_any() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    for body in ({"messages": messages}, {"messages": messages, "tools": [{"type": "function"}]}):
        assert conversation_from_dict(body).as_dict() == body
    assert conversation_from_dict({"messages": messages, "tools": []}).as_dict() == {"messages": messages}
