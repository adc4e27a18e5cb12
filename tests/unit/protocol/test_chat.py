"""OpenAI's chat completions, read and written."""

from typing import Any

import pytest

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.chat import (
    Heading,
    Options,
    TokenLogprob,
    Usage,
    chat_choice,
    chat_completion,
    chat_request_from_dict,
)

HI = {"messages": [{"role": "user", "content": "Hi"}]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
HEADING = Heading("chatcmpl-1", 1700000000, "chat")
TOKEN = TokenLogprob("é", "é".encode(), -0.5, (TokenLogprob("e", b"e", -1.0),))


def test_defaults_are_those_of_openai() -> None:
    request = chat_request_from_dict(HI | {"model": "chat"})
    assert request.options == Options(temperature=1.0, top_p=1.0, max_tokens=None, logprobs=None)
    assert (request.is_stream, request.include_usage, request.may_call_tools) == (False, False, False)
    assert request.conversation.as_dict() == HI


def test_every_option_is_read() -> None:
    body = HI | {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "max_completion_tokens": 7,
        "stop": ["a", "b"],
        "seed": 5,
        "logprobs": True,
        "top_logprobs": 2,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    request = chat_request_from_dict(body)
    assert request.options == Options(7, 0.5, 0.9, 40, 5, ("a", "b"), True, 2)
    assert request.is_stream and request.include_usage


def test_what_changes_a_token_s_chance_is_read() -> None:
    names = ("min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    values = {"min_p": 0.1, "presence_penalty": -1, "frequency_penalty": 2, "repetition_penalty": 1.2}
    body = (
        HI | values | {"n": 3, "logit_bias": {"5": -100, "7": 0.5}, "chat_template_kwargs": {"enable_thinking": False}}
    )
    request = chat_request_from_dict(body)
    assert {name: getattr(request.options, name) for name in names} == values
    assert request.options.logit_bias == {5: -100, 7: 0.5}
    assert (request.n, request.template_variables) == (3, {"enable_thinking": False})


def test_more_stops_than_openai_takes_are_read() -> None:
    stops = ["\nclass", "\ndef", "\n#", "\nif", "\nprint", "<|im_end|>"]
    assert chat_request_from_dict(HI | {"stop": stops}).options.stop == tuple(stops)


def test_null_means_not_given_and_fields_without_effect_are_let_through() -> None:
    body = HI | {"temperature": None, "stop": None, "n": None, "user": "u", "metadata": {"a": "b"}, "logit_bias": {}}
    assert chat_request_from_dict(body).options == Options()


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    request = chat_request_from_dict({"messages": [{"role": "user", "content": parts}]})
    assert request.conversation.messages[0].content == "Hello"


def test_a_conversation_with_tool_calls_is_read_whole() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "No"},
    ]
    request = chat_request_from_dict({"messages": messages, "tools": [WEATHER]})
    assert request.may_call_tools
    assert request.conversation.as_dict()["messages"][1]["tool_calls"] == [call]
    assert not chat_request_from_dict({"messages": messages, "tools": [WEATHER], "tool_choice": "none"}).may_call_tools


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        pytest.param({"messages": []}, "messages", "at least one message", id="no message"),
        pytest.param({"messages": "Hi"}, "messages", "must be a list", id="messages not a list"),
        pytest.param({"messages": [{"role": "bot", "content": ""}]}, "messages[0].role", "'bot', expected one of", id="role"),
        pytest.param({"messages": [{"role": "user"}]}, "messages[0].content", "content is missing", id="no content"),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
            "part of type 'image_url': only text",
            id="picture",
        ),
        pytest.param({"temperature": 3}, "temperature", "temperature is 3, expected 0 to 2", id="too hot"),
        pytest.param({"temperature": "1"}, "temperature", "expected a number", id="temperature as text"),
        pytest.param({"temperature": True}, "temperature", "expected a number", id="temperature as truth"),
        pytest.param({"top_p": 1.5}, "top_p", "expected 0 to 1", id="top_p"),
        pytest.param({"max_tokens": 0}, "max_tokens", "expected at least 1", id="no tokens"),
        pytest.param({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "together", id="both limits"),
        pytest.param({"n": 0}, "n", "expected 1 to 128", id="n"),
        pytest.param({"n": 129}, "n", "expected 1 to 128", id="too many choices"),
        pytest.param({"stop": ["a"] * 65}, "stop", "at most 64", id="too many stops"),
        pytest.param({"stop": "a" * 1001}, "stop", "at most 1000 characters", id="a stop too long"),
        pytest.param({"stop": [1]}, "stop", "a string or a list of strings", id="stop not text"),
        pytest.param({"seed": 1.5}, "seed", "expected an integer", id="seed"),
        pytest.param({"stream": "yes"}, "stream", "true or false", id="stream"),
        pytest.param({"stream_options": {}}, "stream_options", "only allowed when stream", id="options without stream"),
        pytest.param({"top_logprobs": 2}, "top_logprobs", "when logprobs is true", id="top without logprobs"),
        pytest.param({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "expected 0 to 20", id="too many logprobs"),
        pytest.param({"logit_bias": {"5": 101}}, "logit_bias", "logit_bias.5 is 101, expected -100 to 100", id="bias"),
        pytest.param({"logit_bias": {"hi": 1}}, "logit_bias", "the key 'hi', expected a token id", id="bias of a text"),
        pytest.param({"logit_bias": {"5": True}}, "logit_bias", "logit_bias.5 is True", id="bias that is none"),
        pytest.param({"logit_bias": [5]}, "logit_bias", "expected a JSON object", id="biases as a list"),
        pytest.param({"presence_penalty": 2.5}, "presence_penalty", "expected -2 to 2", id="presence"),
        pytest.param({"frequency_penalty": -3}, "frequency_penalty", "expected -2 to 2", id="frequency"),
        pytest.param({"cache_salt": 7}, "cache_salt", "cache_salt is 7, expected text of 1 to 256", id="salt"),
        pytest.param({"cache_salt": ""}, "cache_salt", "expected text of 1 to 256", id="an empty salt"),
        pytest.param({"repetition_penalty": 0}, "repetition_penalty", "expected 0.01 to 100", id="repetition"),
        pytest.param({"min_p": 1.5}, "min_p", "expected 0 to 1", id="min_p"),
        pytest.param({"chat_template_kwargs": 1}, "chat_template_kwargs", "expected a JSON object", id="variables"),
        pytest.param({"tools": [{"type": "function"}]}, "tools[0]", "a function with a name", id="nameless tool"),
        pytest.param({"functions": []}, "functions", "replaced by tools", id="functions"),
        pytest.param({"modalities": ["text", "audio"]}, "modalities", "only text", id="audio"),
        pytest.param({"temprature": 1}, "temprature", "Unrecognized request argument supplied: temprature", id="unknown"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(fields: dict[str, Any], param: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as excinfo:
        chat_request_from_dict(HI | fields)
    assert excinfo.value.param == param
    assert text in excinfo.value.message


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as excinfo:
        chat_request_from_dict(HI | {"n": 300, "temperature": 9, "what": 1})
    assert all(word in excinfo.value.message for word in ("n is 300", "temperature is 9", "what"))


@pytest.mark.parametrize("body", [None, [], "x", 5])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidParameter, match="must be a JSON object"):
        chat_request_from_dict(body)


def test_an_answer_is_what_the_sdk_reads() -> None:
    from openai.types.chat import ChatCompletion

    body = chat_completion(HEADING, [chat_choice(0, "Hé", [], "stop", [TOKEN])], Usage(3, 2))
    completion_object = ChatCompletion.model_validate(body, strict=True)
    assert completion_object.choices[0].message.content == "Hé"
    assert completion_object.usage is not None and completion_object.usage.total_tokens == 5
    assert (
        completion_object.choices[0].logprobs is not None and completion_object.choices[0].logprobs.content is not None
    )
    token = completion_object.choices[0].logprobs.content[0]
    assert (token.token, token.bytes, token.logprob) == ("é", [0xC3, 0xA9], -0.5)
    assert token.top_logprobs[0].token == "e"


def test_an_answer_that_calls_says_so() -> None:
    from openai.types.chat import ChatCompletion

    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    body = chat_completion(HEADING, [chat_choice(0, "", [call], "stop")], Usage(1, 1))
    completion_object = ChatCompletion.model_validate(body)
    assert completion_object.choices[0].finish_reason == "tool_calls"
    assert completion_object.choices[0].message.content is None
    assert completion_object.choices[0].message.tool_calls is not None
