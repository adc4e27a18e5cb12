"""Items of the Responses API: what is taken and how it is kept, and the chat messages that it becomes."""

from itertools import count
from typing import Any

import pytest

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.field import Fields
from mafunzo.protocol.response_item import Item, chat_messages, item_page, read_items, require_calls

CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "2"}


def read(value: Any) -> tuple[Item, ...]:
    numbers = count(1)
    fields = Fields({"input": value})
    items = read_items(fields, lambda prefix: f"{prefix}_{next(numbers)}")
    fields.check()
    return items


def test_a_text_is_a_message_of_the_user_s() -> None:
    [item] = read("Hi")
    parts = [{"type": "input_text", "text": "Hi"}]
    assert item == {"id": "msg_1", "type": "message", "status": "completed", "role": "user", "content": parts}


def test_items_become_messages_in_their_order() -> None:
    items = read(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "1 + "}, {"type": "input_text", "text": "1?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
            CALL,
            CALL | {"call_id": "c2", "arguments": ""},
            OUTPUT,
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "3"}]},
            {"role": "assistant", "content": "2"},
        ]
    )
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    other = {"id": "c2", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    assert chat_messages(items) == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "Wait.", "tool_calls": [call, other]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "tool", "tool_call_id": "c2", "content": "3"},
        {"role": "assistant", "content": "2"},
    ]


def test_a_call_after_something_else_is_a_message_of_its_own() -> None:
    [_, message] = chat_messages(read([{"role": "user", "content": "1 + 1?"}, CALL]))
    assert (message["role"], message["content"], len(message["tool_calls"])) == ("assistant", None, 1)


def test_items_keep_their_ids_and_fields_that_are_null_count_as_absent() -> None:
    [item] = read([CALL | {"id": "fc_9", "status": "completed", "namespace": None, "caller": None}])
    assert item["id"] == "fc_9"


@pytest.mark.parametrize(
    ("value", "param", "text"),
    [
        pytest.param(None, "input", "input is None, expected text, or a list of at least one item.", id="nothing"),
        pytest.param([], "input", "input is [], expected text", id="no items"),
        pytest.param(["Hi"], "input[0]", "input[0] is 'Hi', expected an item as a JSON object.", id="no object"),
        pytest.param([{"type": "item_reference"}], "input[0].type", "input[0].type is 'item_reference'", id="unknown"),
        pytest.param([{"type": []}], "input[0].type", "input[0].type is []", id="a type that is no text"),
        pytest.param([{"role": "tool", "content": ""}], "input[0].role", "expected one of user, assistant", id="role"),
        pytest.param([{"role": "user"}], "input[0].content", "input[0].content is None", id="no content"),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}],
            "input[0].content[0].type",
            "input[0].content[0].type is 'input_image', expected input_text or output_text: only texts are supported.",
            id="a picture",
        ),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_text", "text": "x", "more": 1}]}],
            "input[0].content[0].more",
            "Unrecognized request argument supplied: input[0].content[0].more.",
            id="unknown field of a part",
        ),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text", "is None", id="no text"
        ),
        pytest.param([{"role": "user", "content": "", "x": 1}], "input[0].x", "Unrecognized", id="unknown field"),
        pytest.param(
            [{"role": "assistant", "content": "", "phase": "commentary"}], "input[0].phase", "no place", id="phase"
        ),
        pytest.param([CALL | {"name": " "}], "input[0].name", "expected a string that isn't empty", id="no name"),
        pytest.param([OUTPUT | {"call_id": 1}], "input[0].call_id", "input[0].call_id is 1", id="no call"),
    ],
)
def test_what_is_not_taken_is_refused_by_name(value: Any, param: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read(value)
    assert caught.value.param == param
    assert text in caught.value.message


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as caught:
        read([{"type": "web_search_call"}, {"role": "user"}])
    assert "input[0].type" in caught.value.message and "input[1].content" in caught.value.message


def test_an_output_needs_the_call_before_it() -> None:
    require_calls(read([CALL, OUTPUT]))
    with pytest.raises(InvalidParameter, match="an output of the call 'c1', which no item before it makes"):
        require_calls(read([OUTPUT, CALL]))


def test_a_list_of_items_comes_in_pages() -> None:
    items = read([{"role": "user", "content": str(number)} for number in range(3)])
    newest = item_page(items, {"limit": "2"})
    assert [item["id"] for item in newest["data"]] == ["msg_3", "msg_2"]
    assert (newest["first_id"], newest["last_id"], newest["has_more"]) == ("msg_3", "msg_2", True)
    rest = item_page(items, {"after": "msg_2"})
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (["msg_1"], False)
    oldest = item_page(items, {"order": "asc"})
    assert [item["id"] for item in oldest["data"]] == ["msg_1", "msg_2", "msg_3"]
    assert item_page(items, {"after": "msg_1"})["first_id"] is None


@pytest.mark.parametrize(
    ("query", "text"),
    [
        pytest.param({"limit": "0"}, "limit is 0, expected 1 to 100.", id="too few"),
        pytest.param({"limit": "many"}, "limit is 'many', expected an integer.", id="no number"),
        pytest.param({"order": "up"}, "order is 'up', expected 'asc' or 'desc'.", id="unknown order"),
        pytest.param({"after": "x"}, "after is 'x', expected the id of an item", id="unknown item"),
        pytest.param({"include": "x"}, "Unrecognized request argument supplied: include.", id="unknown parameter"),
    ],
)
def test_what_a_list_is_not_asked_by_is_refused(query: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        item_page(read("Hi"), query)
    assert text in caught.value.message
