"""What a request asks of its answers' structure is read, or refused by name."""

from typing import Any

import pytest

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.chat import chat_request_from_dict

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD, SUB = ({"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("add", "sub"))


def request(**fields: Any) -> Any:
    return chat_request_from_dict({"messages": [{"role": "user", "content": "Hi"}], **fields})


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param({"type": "text"}, None, id="text"),
        pytest.param({"type": "json_object"}, {"type": "object"}, id="any object"),
        pytest.param({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, SCHEMA, id="a schema"),
        pytest.param(
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True, "description": "d"}},
            SCHEMA,
            id="a strict one",
        ),
        pytest.param({"type": "json_schema", "json_schema": {"name": "x"}}, {}, id="any JSON"),
    ],
)
def test_an_answer_s_schema_is_read(response_format: Any, expected: Any) -> None:
    assert request(response_format=response_format).answer_schema == expected


@pytest.mark.parametrize(
    ("choice", "may_call", "forced"),
    [
        pytest.param(None, True, (), id="none"),
        pytest.param("auto", True, (), id="auto"),
        pytest.param("none", False, (), id="no calls"),
        pytest.param("required", True, (ADD, SUB), id="any"),
        pytest.param({"type": "function", "function": {"name": "sub"}}, True, (SUB,), id="a name"),
    ],
)
def test_a_choice_of_tools_is_read(choice: Any, may_call: bool, forced: Any) -> None:
    body = request(tools=[ADD, SUB], tool_choice=choice)
    assert (body.may_call_tools, body.forced_tools) == (may_call, forced)
    assert body.conversation.tools == ((ADD, SUB) if may_call else ())


def test_a_function_s_name_asks_for_one_call() -> None:
    named = {"type": "function", "function": {"name": "sub"}}
    assert request(tools=[ADD, SUB], tool_choice="required").may_call_several
    assert not request(tools=[ADD, SUB], tool_choice=named).may_call_several


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        pytest.param(
            {"response_format": "json"}, "response_format", "is 'json', expected the type 'text'", id="a name"
        ),
        pytest.param({"response_format": {"type": "xml"}}, "response_format", "expected the type", id="another type"),
        pytest.param({"response_format": {"type": ["text"]}}, "response_format", "expected the type", id="a list"),
        pytest.param(
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "expected an object",
            id="no schema",
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
            "response_format.json_schema",
            "object",
            id="list",
        ),
        pytest.param(
            {"response_format": {"type": "json_object", "schema": {}}},
            "response_format.schema",
            "Unrecognized",
            id="misplaced",
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"shema": {}}}},
            "response_format.json_schema.shema",
            "Unrecognized",
            id="misspelt",
        ),
        pytest.param({"tool_choice": "required"}, "tool_choice", "there are no tools", id="no tools to require"),
        pytest.param(
            {"tool_choice": "any", "tools": [ADD]}, "tool_choice", "is 'any', expected 'auto'", id="another word"
        ),
        pytest.param(
            {"tool_choice": {"type": "function", "function": {"name": "mul"}}, "tools": [ADD]},
            "tool_choice",
            "the function 'mul', which isn't among the tools",
            id="unknown function",
        ),
        pytest.param({"tool_choice": {"type": "function"}, "tools": [ADD]}, "tool_choice", "the name of", id="no name"),
        pytest.param({"tool_choice": ["add"], "tools": [ADD]}, "tool_choice", "expected 'auto'", id="a list"),
    ],
)
def test_what_is_wrong_with_a_structure_is_refused_by_name(fields: dict[str, Any], param: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as excinfo:
        request(**fields)
    assert excinfo.value.param == param
    assert text in excinfo.value.message
