"""Requests of the Responses API: the chat completion that each becomes, and what is refused."""

from typing import Any

import pytest

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.chat import chat_request_from_dict
from mafunzo.protocol.response_request import ResponseRequest, chat_body, response_request_from_dict

FUNCTION = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}


def asked(**more: Any) -> ResponseRequest:
    return response_request_from_dict({"model": "chat", "input": "Hi", **more})


def body(**more: Any) -> dict[str, Any]:
    """The chat completion of a request, which a worker takes."""
    made = chat_body(asked(**more))
    chat_request_from_dict(made)
    return made


def test_a_request_is_stored_and_whole_unless_it_says_otherwise() -> None:
    request = asked()
    assert (request.is_stored, request.is_stream, request.previous_response_id) == (True, False, None)
    assert body() == {
        "model": "chat",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 1.0,
        "top_p": 1.0,
    }


def test_the_instructions_come_first_then_what_was_said_before() -> None:
    [before] = asked(input="Before").items
    messages = chat_body(asked(instructions="Be brief."), [before])["messages"]
    assert [(message["role"], message["content"]) for message in messages] == [
        ("system", "Be brief."),
        ("user", "Before"),
        ("user", "Hi"),
    ]


def test_an_output_of_a_call_of_the_response_before_is_taken() -> None:
    output = {"type": "function_call_output", "call_id": "c1", "output": "2"}
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": "{}"}
    assert [m["role"] for m in chat_body(asked(input=[output]), [call])["messages"]] == ["assistant", "tool"]
    with pytest.raises(InvalidParameter, match="'c1', which no item before it makes"):
        chat_body(asked(input=[output]))


def test_options_have_their_names_in_chat_completions() -> None:
    made = body(temperature=0, top_p=0.5, max_output_tokens=7, stream=True)
    assert (made["temperature"], made["top_p"], made["max_completion_tokens"]) == (0, 0.5, 7)
    assert (made["stream"], made["stream_options"]) == (True, {"include_usage": True})


@pytest.mark.parametrize(
    ("choice", "chat_choice"),
    [
        (None, "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "add"}, {"type": "function", "function": {"name": "add"}}),
    ],
)
def test_functions_and_the_choice_among_them(choice: Any, chat_choice: Any) -> None:
    made = body(tools=[FUNCTION], tool_choice=choice, parallel_tool_calls=False)
    function = {"name": "add", "parameters": {"type": "object"}, "strict": True}
    assert made["tools"] == [{"type": "function", "function": function}]
    assert (made["tool_choice"], made["parallel_tool_calls"]) == (chat_choice, False)


@pytest.mark.parametrize(
    ("text_format", "response_format"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "plan", "schema": {"type": "object"}, "strict": True},
            {"type": "json_schema", "json_schema": {"name": "plan", "schema": {"type": "object"}, "strict": True}},
        ),
    ],
)
def test_the_form_of_the_text(text_format: Any, response_format: Any) -> None:
    assert body(text={"format": text_format, "verbosity": "medium"}).get("response_format") == response_format


def test_values_that_say_what_happens_anyway_are_taken() -> None:
    body(
        background=False,
        include=[],
        reasoning={"effort": None},
        top_logprobs=0,
        truncation="disabled",
        max_tool_calls=3,
        metadata={"topic": "greeting"},
        user="amina",
        prompt_cache_key="k",
        service_tier="auto",
        stream=True,
        stream_options={"include_obfuscation": False},
        tools=[FUNCTION | {"defer_loading": False, "async": False, "allowed_callers": ["direct"]}],
    )


@pytest.mark.parametrize(
    ("field", "value", "param", "text"),
    [
        ("background", True, "background", "background is True: an answer is made while its client waits"),
        ("conversation", "conv_1", "conversation", "go on with previous_response_id"),
        ("include", ["message.output_text.logprobs"], "include", "include is ['message"),
        ("prompt", {"id": "p"}, "prompt", "prompts aren't stored"),
        ("reasoning", {"effort": "low"}, "reasoning", "reasoning is {'effort': 'low'}: it isn't supported."),
        ("truncation", "auto", "truncation", "is refused, not cut."),
        ("top_logprobs", 3, "top_logprobs", "log-probabilities are told by chat completions"),
        ("moderation", {"model": "m"}, "moderation", "it isn't supported."),
        ("seed", 7, "seed", "Unrecognized request argument supplied: seed."),
        ("temperature", 3, "temperature", "temperature is 3, expected 0 to 2."),
        ("max_output_tokens", 0, "max_output_tokens", "max_output_tokens is 0, expected at least 1."),
        ("store", "yes", "store", "store is 'yes', expected true or false."),
        ("instructions", ["x"], "instructions", "instructions is ['x'], expected a string."),
        ("stream_options", {}, "stream_options", "only allowed when stream is true"),
        ("metadata", {"a": 1}, "metadata", "metadata.a is 1, expected a string of at most 512 characters."),
        ("metadata", {"k" * 65: ""}, "metadata", "longer than 64 characters."),
        ("metadata", {str(i): "" for i in range(17)}, "metadata", "metadata has 17 entries, expected at most 16."),
        ("tools", {}, "tools", "tools must be a list."),
        ("tools", [{"type": "web_search"}], "tools[0].type", "expected 'function': there are no built-in tools."),
        ("tools", ["x"], "tools[0]", "tools[0] is 'x', expected 'function'"),
        ("tools", [{"type": "function"}], "tools[0].name", "tools[0].name is None, expected a string"),
        ("tools", [FUNCTION | {"parameters": 1}], "tools[0].parameters", "expected a JSON schema"),
        ("tools", [FUNCTION | {"defer_loading": True}], "tools[0].defer_loading", "there is no search of tools."),
        ("tools", [FUNCTION | {"function": {}}], "tools[0].function", "Unrecognized request argument supplied"),
        ("tool_choice", "required", "tool_choice", "there are no tools to call."),
        ("tool_choice", {"type": "function", "name": "x"}, "tool_choice", "'x', which isn't among the tools."),
        ("tool_choice", {"type": "allowed_tools"}, "tool_choice", "or the name of a function as {'type': 'function'"),
        ("text", "x", "text", "text must be a JSON object."),
        ("text", {"verbosity": "low"}, "text.verbosity", "text.verbosity is 'low': it isn't supported."),
        ("text", {"format": {"type": "x"}}, "text.format", "expected the type 'text', 'json_object' or 'json_schema'"),
        ("text", {"format": {"type": "text", "x": 1}}, "text.format.x", "Unrecognized"),
        ("text", {"format": {"type": "json_schema", "name": "x"}}, "text.format.schema", "expected a JSON schema"),
        ("text", {"format": {"type": "json_schema", "schema": {}}}, "text.format.name", "isn't empty"),
    ],
)
def test_what_can_not_be_honoured_is_refused_by_name(field: str, value: Any, param: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        asked(**{field: value})
    assert caught.value.param == param
    assert text in caught.value.message


def test_padding_of_a_stream_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="the pieces of a stream aren't padded"):
        asked(stream=True, stream_options={"include_obfuscation": True})
