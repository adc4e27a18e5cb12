"""Which event comes when in a streamed response, and that a whole one says the same."""

from itertools import count
from typing import Any

import pytest

from mafunzo.protocol.response_request import response_request_from_dict
from mafunzo.protocol.response_stream import (
    EventReader,
    ResponseHeading,
    ResponseStream,
    named_event,
    refusal,
    whole_response,
)

USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 5,
    "total_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 2},
}


def new_stream(**more: Any) -> ResponseStream:
    request = response_request_from_dict({"model": "chat", "input": "Hi", **more})
    numbers = count(1)
    return ResponseStream(request, ResponseHeading("resp_1", 7), lambda prefix: f"{prefix}_{next(numbers)}")


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": None}


def call(name: str, arguments: str, index: int = 0) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": f"call_{index}", "type": "function", "function": function}


def streamed(*deltas: dict[str, Any], reason: str = "stop") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of an answer that comes in these pieces, and its response."""
    stream = new_stream()
    events = stream.begin()
    for delta in deltas:
        events += stream.add(chunk(delta))
    events += stream.add(chunk({}, reason)) + stream.add({"choices": [], "usage": USAGE})
    events += stream.close(9)
    return [*events, stream.end()], stream.response


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


MESSAGE_ENDS = ["output_text.done", "content_part.done", "output_item.done"]
CALL_ENDS = ["function_call_arguments.done", "output_item.done"]


def test_a_text_comes_as_a_message() -> None:
    events, response = streamed({"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"})
    begin = ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds(events) == [*begin, "output_text.delta", "output_text.delta", *MESSAGE_ENDS, "completed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert {event["item_id"] for event in events if "item_id" in event} == {"msg_1"}
    assert "".join(event["delta"] for event in events if "delta" in event) == "Hello"
    assert events[2]["item"] == {
        "id": "msg_1",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    [item] = response["output"]
    assert item["content"] == [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]
    assert events[-1]["response"] == response
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []


def test_a_response_says_what_was_asked_and_what_it_took() -> None:
    _, response = streamed({"content": "Hello"})
    facts = {"id": "resp_1", "object": "response", "created_at": 7, "completed_at": 9, "status": "completed"}
    asked = {"model": "chat", "temperature": 1.0, "store": True, "tool_choice": "auto", "tools": []}
    assert {name: response[name] for name in facts | asked} == facts | asked
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }


def test_text_and_calls_are_items_one_after_the_other() -> None:
    events, response = streamed(
        {"content": "Wait."}, {"tool_calls": [call("add", '{"a": 1}'), call("add", "{}", 1)]}, reason="tool_calls"
    )
    calls = ["output_item.added", "function_call_arguments.delta", *CALL_ENDS]
    assert kinds(events)[5:] == [*MESSAGE_ENDS, *calls, *calls, "completed"]
    assert [event["output_index"] for event in events if event["type"].endswith("output_item.done")] == [0, 1, 2]
    message, first, second = response["output"]
    assert message["content"][0]["text"] == "Wait."
    assert first == {
        "id": "fc_2",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_0",
        "name": "add",
        "arguments": '{"a": 1}',
    }
    assert second["call_id"] == "call_1"


def test_a_call_that_comes_in_pieces_is_one() -> None:
    rest = {"index": 0, "function": {"arguments": "1}"}}
    events, response = streamed({"tool_calls": [call("add", '{"a": ')]}, {"tool_calls": [rest]}, reason="tool_calls")
    assert kinds(events).count("function_call_arguments.delta") == 2
    assert [item["arguments"] for item in response["output"]] == ['{"a": 1}']


def test_an_answer_that_says_nothing_is_an_empty_message() -> None:
    events, response = streamed()
    assert kinds(events)[2:] == ["output_item.added", "content_part.added", *MESSAGE_ENDS, "completed"]
    assert response["output"][0]["content"][0]["text"] == ""


def test_an_answer_that_was_cut_is_incomplete() -> None:
    events, response = streamed({"content": "Hel"}, reason="length")
    assert events[-1]["type"] == "response.incomplete"
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"message": "no", "type": "server_error", "code": "worker_failed"}, "server_error"),
        ({"message": "no", "type": "requests", "code": "rate_limit_exceeded"}, "rate_limit_exceeded"),
        ({"message": "no", "type": "invalid_request_error", "code": "invalid_parameter"}, "invalid_prompt"),
    ],
)
def test_an_answer_that_breaks_off_fails_with_the_reason(error: dict[str, Any], code: str) -> None:
    stream = new_stream()
    stream.begin()
    stream.add(chunk({"content": "Hel"}))
    events = stream.fail(error)
    assert kinds(events) == [*MESSAGE_ENDS, "failed"]
    assert stream.response["error"] == {"code": code, "message": "no"}
    assert stream.response["output"][0]["status"] == "incomplete"


def test_one_that_never_began_begins_to_fail() -> None:
    assert kinds(new_stream().fail({"message": "no"})) == ["created", "in_progress", "failed"]


def test_a_whole_answer_is_the_response_of_the_stream() -> None:
    _, response = streamed({"content": "Wait."}, {"tool_calls": [call("add", "{}")]}, reason="tool_calls")
    message = {"role": "assistant", "content": "Wait.", "refusal": None, "tool_calls": [call("add", "{}")]}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    assert whole_response(new_stream(), answer, 9) == response


@pytest.mark.parametrize("answer", [{}, {"choices": [{}]}, {"choices": None}, {"choices": [], "usage": {"x": 1}}])
def test_what_is_no_chat_completion_is_told(answer: Any) -> None:
    with pytest.raises((LookupError, TypeError)):
        whole_response(new_stream(), answer, 9)


def test_an_event_stands_under_its_name() -> None:
    assert named_event({"type": "response.created", "x": "ü"}).decode() == (
        'event: response.created\ndata: {"type":"response.created","x":"ü"}\n\n'
    )


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("messages[0].content", "input"),
        ("response_format", "text.format"),
        ("max_tokens", "max_output_tokens"),
        ("tools", "tools"),
        (None, None),
    ],
)
def test_a_worker_s_refusal_names_the_part_of_the_request(param: str | None, expected: str | None) -> None:
    assert refusal({"error": {"message": "no", "param": param}}) == {"error": {"message": "no", "param": expected}}


def test_events_are_read_however_they_are_cut() -> None:
    stream = b"data: 1\n\n: keep-alive\n\ndata: [DONE]\n\n"
    for size in (1, 2, 7, len(stream)):
        reader = EventReader()
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert [event for piece in pieces for event in reader.add(piece)] == [
            b"data: 1",
            b": keep-alive",
            b"data: [DONE]",
        ]
