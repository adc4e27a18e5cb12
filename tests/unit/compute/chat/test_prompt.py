"""A request's conversation becomes a prompt, whatever its calls look like, and nothing of it is left out silently."""

import json
from typing import Any

import pytest

from mafunzo.compute.chat.prompt import render_prompt
from mafunzo.compute.chat.template import render
from mafunzo.entities.conversation import Conversation, conversation_from_dict
from mafunzo.errors import InvalidParameter
from tests.support.chat_families import FAMILIES, family, make_tokenizer

TOOL = {"type": "function", "function": {"name": "ferry_time", "parameters": {"type": "object", "properties": {}}}}
HAVE_TOOLS = ("qwen2_5", "qwen3", "llama3_2")
ITEMS = """{% for m in messages %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% for k, v in
c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}{% endfor %}{% endfor %}"""
CONCATENATED = """{% for m in messages %}{{ m['content'] }}{% if m['tool_calls'] %}{% for c in m['tool_calls'] %}{{
'<c>' + c['function']['name'] + c['function']['arguments'] + '</c>' }}{% endfor %}{% endif %}{% endfor %}"""


def talk(arguments: Any = '{"town": "Lamu"}', calls: int = 1, **content: Any) -> Conversation:
    call = {"id": "call_1", "type": "function", "function": {"name": "ferry_time", "arguments": arguments}}
    return conversation_from_dict(
        {
            "messages": [
                {"role": "user", "content": "When does it leave?"},
                {"role": "assistant", "tool_calls": [call] * calls, **content},
                {"role": "tool", "tool_call_id": "call_1", "content": "At nine."},
                {"role": "user", "content": "Thanks."},
            ]
        }
    )


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": "Let me look."}])
@pytest.mark.parametrize(
    "arguments", ['{"town": "Lamu"}', '{"town": "said "Lamu""}', "", "null", "[1]", {"town": "Lamu"}]
)
@pytest.mark.parametrize("name", ["smollm2", "phi3", "phi4_mini", *HAVE_TOOLS])
def test_calls_of_a_history_are_in_the_prompt(name: str, arguments: Any, content: dict[str, Any]) -> None:
    text = render_prompt(family(name), talk(arguments, **content))
    assert "ferry_time" in text
    assert "Lamu" in text or "Lamu" not in str(arguments)
    assert "Let me look." in text or "content" not in content or content["content"] is None


def test_a_template_without_calls_gets_them_in_the_form_that_is_read_from_replies() -> None:
    text = render_prompt(family("smollm2"), talk(content="Wait."))
    call = {"name": "ferry_time", "arguments": {"town": "Lamu"}}
    assert f"assistant\nWait.\n<tool_call>\n{json.dumps(call)}\n</tool_call><|im_end|>" in text


def test_several_calls_in_front_of_a_template_that_takes_one_are_written_out() -> None:
    text = render_prompt(family("llama3_2"), talk(calls=2))
    assert text.count('<tool_call>\n{"name": "ferry_time"') == 2


def test_a_template_that_knows_calls_renders_them_itself() -> None:
    assert render_prompt(family("qwen2_5"), talk()) == render(family("qwen2_5"), talk(), add_generation_prompt=True)


@pytest.mark.parametrize(
    ("template", "arguments", "expected"),
    [
        pytest.param(ITEMS, '{"a": 1}', "ferry_time a=1", id="an object"),
        pytest.param(ITEMS, "{broken", "ferry_time arguments={broken", id="an object around broken text"),
        pytest.param(CONCATENATED, '{"a": 1}', '<c>ferry_time{"a": 1}</c>', id="text"),
        pytest.param(CONCATENATED, "{broken", "<c>ferry_time{broken</c>", id="broken text"),
    ],
)
def test_arguments_come_as_the_template_takes_them(template: str, arguments: str, expected: str) -> None:
    tokenizer = make_tokenizer(template, None, "<e>", ["<e>"])
    assert expected in render_prompt(tokenizer, talk(arguments, content=""))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_tools_are_in_the_prompt_or_refused(name: str) -> None:
    conversation = conversation_from_dict({"messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]})
    try:
        assert "ferry_time" in render_prompt(family(name), conversation)
    except InvalidParameter as error:
        assert name not in HAVE_TOOLS
        assert error.param == "tools" and f"the chat template of {name} has no place for tools" in error.message


def test_a_conversation_that_the_template_refuses_is_the_messages_fault() -> None:
    conversation = conversation_from_dict({"messages": [{"role": "system", "content": "x"}]})
    with pytest.raises(
        InvalidParameter, match="messages: the chat template of gemma refuses it: System role"
    ) as caught:
        render_prompt(family("gemma"), conversation)
    assert caught.value.param == "messages"


def test_a_variable_of_the_template_is_set() -> None:
    conversation = conversation_from_dict({"messages": [{"role": "user", "content": "Hi"}]})
    plain = render_prompt(family("qwen3"), conversation)
    assert (
        render_prompt(family("qwen3"), conversation, True, {"enable_thinking": False})
        == f"{plain}<think>\n\n</think>\n\n"
    )


@pytest.mark.parametrize(
    "name", ["enable_thinkin", "tools", "messages", "tokenize", "add_generation_prompt", "content", "user"]
)
def test_a_variable_that_the_template_has_not_is_refused(name: str) -> None:
    conversation = conversation_from_dict({"messages": [{"role": "user", "content": "Hi"}]})
    with pytest.raises(InvalidParameter, match=r"has no such variable to set\. It has enable_thinking\.$") as caught:
        render_prompt(family("qwen3"), conversation, True, {name: 1})
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_a_variable_with_a_default_in_the_template_is_set() -> None:
    conversation = conversation_from_dict({"messages": [{"role": "user", "content": "Hi"}]})
    assert "Today Date: 1 May 1990" in render_prompt(
        family("llama3_2"), conversation, True, {"date_string": "1 May 1990"}
    )
