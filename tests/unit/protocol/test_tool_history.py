"""Tool calls in a request's messages: OpenAI's own shape is read, any other is refused by name."""

from typing import Any

import pytest

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.chat import chat_request_from_dict

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def request(message: dict[str, Any]) -> Any:
    return chat_request_from_dict({"messages": [{"role": "user", "content": "Hi"}, message]})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param({"arguments": '{"a": 1}'}, '{"a": 1}', id="JSON"),
        pytest.param({"arguments": "{broken"}, "{broken", id="what a model wrote wrong"),
        pytest.param({"arguments": {"a": 1}}, {"a": 1}, id="an object"),
        pytest.param({"arguments": None}, "{}", id="null"),
        pytest.param({}, "{}", id="none"),
    ],
)
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_calls_may_stand_without_content(content: dict[str, Any], arguments: dict[str, Any], expected: object) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", **arguments}}
    message = request({"role": "assistant", "tool_calls": [call], **content}).conversation.messages[1]
    assert message.tool_calls[0]["function"] == {"name": "f", "arguments": expected}


@pytest.mark.parametrize("calls", [None, []])
def test_no_calls_may_be_written_out(calls: object) -> None:
    assert request({"role": "assistant", "content": "x", "tool_calls": calls}).conversation.messages[1].tool_calls == ()


@pytest.mark.parametrize(
    ("message", "param"),
    [
        *(pytest.param({"tool_calls": calls}, "tool_calls", id=f"{calls!r}") for calls in (1, True, "x", {"a": 1}, 0.5)),
        *(pytest.param({"tool_calls": [call]}, "tool_calls[0]", id=f"[{call!r}]") for call in (None, 1, "x", [])),
        *(
            pytest.param({"tool_calls": [CALL, {"function": value}]}, "tool_calls[1].function", id=f"function {value!r}")
            for value in (None, 1, "f", ["f"])
        ),
        *(
            pytest.param({"tool_calls": [{"function": {"name": name}}]}, "tool_calls[0].function.name", id=f"name {name!r}")
            for name in (None, 1, "", " ", ["f"], {"a": 1})
        ),
        *(
            pytest.param(
                {"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]},
                "tool_calls[0].function.arguments",
                id=f"arguments {arguments!r}",
            )
            for arguments in (1, True, [], ["x"], 1.5)
        ),
        pytest.param({"tool_calls": [{**CALL, "type": "custom"}]}, "tool_calls[0].type", id="another type"),
        pytest.param({"tool_calls": [{**CALL, "type": ["function"]}]}, "tool_calls[0].type", id="no type"),
        pytest.param({"tool_calls": [{**CALL, "id": 5}]}, "tool_calls[0].id", id="an id that is no text"),
        pytest.param({"role": "user", "content": "x", "tool_calls": [CALL]}, "tool_calls", id="a user's calls"),
        pytest.param({"role": "tool", "content": "x", "tool_call_id": 5}, "tool_call_id", id="a result's id"),
        pytest.param({"role": "user", "content": "x", "name": ["x"]}, "name", id="a name"),
        pytest.param({"content": "x", "function_call": {"name": "f"}}, "function_call", id="the older calls"),
        pytest.param({"role": ["user"], "content": "x"}, "role", id="a role that is no text"),
        pytest.param({"content": [{"type": "image_url", "text": "x"}]}, "content", id="a picture with a text"),
        pytest.param({"content": {"text": "x"}}, "content", id="content that is an object"),
    ],
)  # fmt: skip
def test_malformed_calls_are_refused_by_name(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as excinfo:
        request({"role": "assistant"} | message)
    assert excinfo.value.param == f"messages[1].{param}"
