"""Which chunk comes when in a stream, and that a whole answer says the same."""

from typing import Any

import pytest

from mafunzo.protocol.chat import Heading, TokenLogprob, Usage, chat_request_from_dict
from mafunzo.protocol.completions import completion_request_from_dict
from mafunzo.protocol.stream import ChatReply, ChatStream, Chunk, CompletionStream, event, whole_chat

HEADING = Heading("id-1", 7, "m")
USAGE = Usage(3, 5)
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
INCLUDED = {"include_usage": True}
CALL = '{"name": "add", "arguments": {"a": 1}}'


def chat_request(**more: Any) -> Any:
    return chat_request_from_dict({"messages": [{"role": "user", "content": "hi"}], **more})


def streamed(*texts: str, reason: str = "stop", **more: Any) -> list[Chunk]:
    """The chunks of an answer that comes in these pieces."""
    stream = ChatStream(HEADING, chat_request(stream=True, **more), new_id=lambda: "call-1")
    chunks = stream.begin()
    for text in texts:
        chunks += stream.text(text, [])
    return chunks + stream.finish(reason, USAGE)


def shape(chunk: Chunk) -> str:
    """A chunk as one word of what it says."""
    if not chunk["choices"]:
        return f"usage {chunk['usage']['total_tokens']}"
    [choice] = chunk["choices"]
    delta = choice["delta"]
    if choice["finish_reason"]:
        return f"finish {choice['finish_reason']}"
    if "tool_calls" in delta:
        return "calls " + " ".join(call["function"]["name"] for call in delta["tool_calls"])
    return "role" if "role" in delta else f"text {delta['content']}"


@pytest.mark.parametrize(
    ("texts", "more", "expected"),
    [
        pytest.param([], {}, ["role", "finish stop"], id="nothing but its end"),
        pytest.param(["a", "b"], {}, ["role", "text a", "text b", "finish stop"], id="text as it comes"),
        pytest.param(["a", ""], {}, ["role", "text a", "finish stop"], id="a token without text yet is no chunk"),
        pytest.param(
            ["a"],
            {"stream_options": {"include_usage": True}},
            ["role", "text a", "finish stop", "usage 8"],
            id="usage after the finish reason, if it was asked for",
        ),
        pytest.param(
            ["a"],
            {"stream_options": {"include_usage": False}},
            ["role", "text a", "finish stop"],
            id="no usage otherwise",
        ),
        pytest.param(
            [CALL[:9], CALL[9:]],
            {"tools": TOOLS, "stream_options": {"include_usage": True}},
            ["role", "calls add", "finish tool_calls", "usage 8"],
            id="a call is told as a whole",
        ),
        pytest.param(
            ["well ", f"<tool_call>{CALL}", "</tool_call>"],
            {"tools": TOOLS},
            ["role", "text well ", "calls add", "finish tool_calls"],
            id="text before a call",
        ),
        pytest.param(
            ['{"name": "other"}'],
            {"tools": TOOLS},
            ["role", 'text {"name": "other"}', "finish stop"],
            id="what looked like a call comes at the end",
        ),
        pytest.param([CALL], {}, ["role", f"text {CALL}", "finish stop"], id="without tools there are no calls"),
        pytest.param(
            [f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>"],
            {"tools": TOOLS, "parallel_tool_calls": False},
            ["role", "calls add", "finish tool_calls"],
            id="one call where several aren't allowed",
        ),
    ],
)
def test_chunks_of_a_chat_come_in_this_order(texts: list[str], more: dict[str, Any], expected: list[str]) -> None:
    assert [shape(chunk) for chunk in streamed(*texts, **more)] == expected


def test_every_chunk_has_the_same_heading() -> None:
    chunks = streamed("a", stream_options={"include_usage": True})
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {("id-1", 7, "m")}


@pytest.mark.parametrize("is_included", [True, False])
def test_usage_is_null_until_the_end_of_a_stream_that_includes_it(is_included: bool) -> None:
    *chunks, last = streamed("a", CALL, stream_options={"include_usage": is_included}, tools=TOOLS)
    assert [chunk.get("usage", "none") for chunk in chunks] == [None if is_included else "none"] * len(chunks)
    assert ("usage" in last) is is_included


def test_choices_are_told_apart_by_their_index_and_share_one_usage() -> None:
    request = chat_request(stream=True, n=2, stream_options=INCLUDED)
    first, second = (ChatStream(HEADING, request, index=index) for index in (0, 1))
    chunks = [
        *first.begin(),
        *second.begin(),
        *second.text("b", []),
        *second.finish("stop", None),
        *first.finish("stop", USAGE),
    ]
    assert [[choice["index"] for choice in chunk["choices"]] for chunk in chunks] == [[0], [1], [1], [1], [0], []]
    replies = [ChatReply("a", "stop"), ChatReply("b", "length")]
    choices = whole_chat(HEADING, request, replies, USAGE)["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(0, "a"), (1, "b")]


def test_log_probabilities_come_with_their_token_also_without_text() -> None:
    stream = ChatStream(HEADING, chat_request(stream=True, logprobs=True))
    [chunk] = stream.text("", [TokenLogprob("", b"\xe2", -0.5)])
    assert chunk["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.5
    [chunk] = ChatStream(HEADING, chat_request(stream=True)).text("a", [])
    assert chunk["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("text", "more", "content", "reason"),
    [
        pytest.param("hello", {}, "hello", "length", id="text"),
        pytest.param(CALL, {"tools": TOOLS}, None, "tool_calls", id="a call"),
        pytest.param(f" well <tool_call>{CALL}", {"tools": TOOLS}, "well", "tool_calls", id="text and a call"),
        pytest.param(" {} ", {"tools": TOOLS}, " {} ", "length", id="no call: the text as it was"),
    ],
)
def test_a_whole_chat_says_the_same(text: str, more: dict[str, Any], content: str | None, reason: str) -> None:
    reply = ChatReply(text, "length")
    body = whole_chat(HEADING, chat_request(**more), [reply], USAGE, new_id=lambda: "call-1")
    [choice] = body["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)
    assert body["usage"]["total_tokens"] == 8
    assert [call["id"] for call in choice["message"].get("tool_calls", [])] == ["call-1"] * (reason == "tool_calls")


def test_chunks_of_a_completion_end_with_the_reason_and_the_usage() -> None:
    body = {"prompt": "a", "stream": True, "stream_options": {"include_usage": True}, "logprobs": 0}
    stream = CompletionStream(HEADING, completion_request_from_dict(body))
    chunks = stream.text("b", [9], ["b"], [TokenLogprob("b", b"b", -1.0)]) + stream.finish("stop", USAGE)
    text, reason, usage = chunks
    assert text["choices"][0]["logprobs"]["token_ids"] == [9] and text["choices"][0]["finish_reason"] is None
    assert reason["choices"][0]["finish_reason"] == "stop"
    assert text["usage"] is None and reason["usage"] is None
    assert usage["choices"] == [] and usage["usage"]["total_tokens"] == 8


def test_a_completion_without_log_probabilities_has_none_and_no_usage_unless_it_is_asked_for() -> None:
    stream = CompletionStream(HEADING, completion_request_from_dict({"prompt": "a", "stream": True}))
    [text] = stream.text("b", [9], [], [])
    assert text["choices"][0]["logprobs"] is None and "usage" not in text
    assert len(stream.finish("stop", USAGE)) == 1


def test_an_event_is_one_line_of_json_in_utf_8() -> None:
    assert event({"a": "é\n"}) == 'data: {"a":"é\\n"}\n\n'.encode()


def test_chunks_are_what_the_sdk_reads() -> None:
    from openai.types.chat import ChatCompletionChunk

    stream = ChatStream(HEADING, chat_request(tools=TOOLS, logprobs=True, stream=True, stream_options=INCLUDED))
    token = TokenLogprob("é", "é".encode(), -0.5, (TokenLogprob("e", b"e", -1.0),))
    chunks = stream.begin() + stream.text("é", [token]) + stream.text(f"<tool_call>{CALL}", [])
    chunks += stream.finish("stop", USAGE)
    assert [shape(chunk) for chunk in chunks] == ["role", "text é", "calls add", "finish tool_calls", "usage 8"]
    assert all(ChatCompletionChunk.model_validate(chunk, strict=True).id == "id-1" for chunk in chunks)
