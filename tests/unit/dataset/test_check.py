"""Every bad row with every reason, and nothing lost on the way."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.dataset.check import BadRow, Row, check_row, check_source, fingerprint, refuse
from mafunzo.dataset.files import RawRow, open_source
from mafunzo.entities.conversation import conversation_from_dict
from mafunzo.errors import InvalidData

U = {"role": "user", "content": "Hi."}
A = {"role": "assistant", "content": "Hello!"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def checked(messages: Any, **more: Any) -> Row | BadRow:
    return check_row(RawRow("train.jsonl", 17, 16, {"messages": messages, **more}))


@pytest.mark.parametrize(
    "messages, reason",
    [
        pytest.param([], "'messages' is empty", id="empty"),
        pytest.param([A], "has one message only ('assistant'), expected a question and an answer", id="one message"),
        pytest.param([U, U], "has no turn of the assistant, so there is nothing to learn from it", id="no assistant"),
        pytest.param(["x", U, A], "message 1 isn't an object with role and content", id="no object"),
        pytest.param([{"content": "x"}, A], "message 1 has no role", id="no role"),
        pytest.param([{"role": "usr", "content": "x"}, A], "message 1 has the role 'usr', expected one of system, developer, user, assistant, tool (did you mean 'user'?)", id="unknown role"),
        pytest.param([{"role": "ai", "content": "x"}, A], "message 1 has the role 'ai', expected one of system, developer, user, assistant, tool (did you mean 'assistant'?)", id="another tool's role"),
        pytest.param([{"role": "user"}, A], "message 1 ('user') has no content", id="no content"),
        pytest.param([{"role": "user", "content": 7}, A], "message 1 ('user') has content that isn't text: 7", id="number"),
        pytest.param([U, {"role": "assistant", "content": " \n"}], "message 2 ('assistant') is empty", id="white space"),
        pytest.param([{"role": "user", "content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "x"}]}, A], "message 1 has content that isn't text (image_url); chat models here read text only", id="picture"),
        pytest.param([{"role": "user", "content": "\ud83d"}, A], "message 1 ('user') holds half of a character (a lone surrogate), which no encoding can write", id="half a character"),
        pytest.param([U, {"role": "tool", "content": "x"}, A], "message 2 is the result of a tool, but no tool call stands before it", id="result without call"),
        pytest.param([U, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c2", "content": "x"}, A], "message 3 answers the tool call 'c2', which doesn't stand before it", id="result of another call"),
        pytest.param([U, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}], "message 2, tool call 1 has arguments that aren't a JSON object: {x", id="arguments"),
        pytest.param([U, {"role": "assistant", "tool_calls": [{"name": "f", "args": {"x": 1}}]}], "message 2, tool call 1 has no arguments (it has: args). Rename its key to arguments", id="arguments of another name"),
        pytest.param([U, {"role": "assistant", "reasoning_content": "r"}], "message 2 ('assistant') has no content", id="reasoning only"),
        pytest.param([U, {"role": "assistant", "tool_calls": [{"id": "1"}]}], "message 2, tool call 1 has no function with a name", id="no name"),
        pytest.param([{**U, "tool_calls": [CALL]}, A], "message 1 has tool_calls that aren't a list on a message of the assistant", id="call by the user"),
        pytest.param([U, {**A, "weight": 2}], "message 2 has the weight 2, expected 0 or 1 on a message of the assistant", id="weight 2"),
        pytest.param([{**U, "weight": 1}, A], "message 1 has the weight 1, expected 0 or 1 on a message of the assistant", id="weight of the user"),
        pytest.param([U, {**A, "loss": "no"}], 'message 2 has the loss "no", expected true or false on a message of the assistant', id="loss no"),
        pytest.param([U, {**A, "train": 0}], "message 2 has the train 0, expected true or false on a message of the assistant", id="train 0"),
        pytest.param([{**U, "training": True}, A], "message 1 has the training true, expected true or false on a message of the assistant", id="training of the user"),
        pytest.param([U, {**A, "train_detail": [{"begin_offset": 0}]}], "message 2 has train_detail, but a turn is trained whole. Split it, or exclude it with train false", id="parts of a turn"),
        pytest.param([U, {**A, "weight": 1, "loss": False}, U, A], "message 2 has weight 1, loss false, which contradict one another", id="a contradiction"),
        pytest.param([U, {**A, "loss": False}], "has loss false on every turn of the assistant, so there is nothing to learn from it", id="all loss false"),
        pytest.param([{"speaker": "x", "text": "y"}, A], "message 1 has no role (it has: speaker, text). Rename its keys to role and content", id="other keys"),
        pytest.param([{"role": "user", "text": "y"}, A], "message 1 ('user') has no content (it has: text). Rename its text to content", id="another key for the text"),
        pytest.param([U, {"role": "function_call", "content": "f()"}, A], "message 2 is a tool call, but not JSON with a name and arguments: f()", id="a call that isn't JSON"),
        pytest.param([U, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}], "message 2, tool call 1 has arguments that aren't a JSON object: [1]", id="arguments in a list"),
        pytest.param([U, {**A, "weight": 0}], "has weight 0 on every turn of the assistant, so there is nothing to learn from it", id="all weights 0"),
        pytest.param([{"role": "usr", "content": "x"}, {"role": "assistant"}], "message 1 has the role 'usr', expected one of system, developer, user, assistant, tool (did you mean 'user'?); message 2 ('assistant') has no content", id="all reasons at once"),
    ],
)  # fmt: skip
def test_a_bad_row_says_every_reason(messages: Any, reason: str) -> None:
    assert checked(messages) == BadRow("train.jsonl", 17, reason)


def test_tools_must_be_definitions_with_names() -> None:
    assert checked([U, A], tools="x") == BadRow("train.jsonl", 17, "'tools' isn't a list of tool definitions")
    assert checked([U, A], tools=[{"function": {}}]) == BadRow("train.jsonl", 17, "a tool definition has no name")
    row = checked([U, A], tools=[{"name": "f", "parameters": {}}])
    assert isinstance(row, Row)
    assert row.conversation.tools == ({"type": "function", "function": {"name": "f", "parameters": {}}},)


@pytest.mark.parametrize(
    "messages, notes",
    [
        pytest.param([U, A], (), id="nothing unusual"),
        pytest.param([A, U, A], ("begins with a turn of the assistant, before any question",), id="assistant first"),
        pytest.param([U, {**A, "loss": False}, U, A], ("excludes a turn of the assistant from training",), id="an excluded turn"),
        pytest.param([{**U, "train": False}, {**A, "train": True}], (), id="what happens anyway"),
        pytest.param([{**U, "weight": 0}, {**A, "weight": 1.0}], (), id="what happens anyway, by weight"),
        pytest.param([U, A, U], ("ends on a turn of the user, which isn't trained",), id="trailing user"),
        pytest.param([U, U, A], ("has several turns of the user in a row",), id="two users"),
        pytest.param([U, A, A], ("has several turns of the assistant in a row",), id="two assistants"),
        pytest.param([U, {"role": "system", "content": "x"}, A], ("has a system message that isn't the first message",), id="late system"),
    ],
)  # fmt: skip
def test_what_is_unusual_is_noted_and_kept(messages: Any, notes: tuple[str, ...]) -> None:
    row = checked(messages)
    assert isinstance(row, Row)
    assert row.notes == notes
    assert len(row.conversation.messages) == len(messages)


def test_parts_of_text_are_joined_and_calls_need_no_content() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = checked(
        [
            {"role": "user", "content": parts},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": ""},
            A,
        ]
    )
    assert isinstance(row, Row)
    assert [message.content for message in row.conversation.messages] == ["ab", None, "", "Hello!"]
    assert row.conversation.messages[1].tool_calls == (CALL,)


@pytest.mark.parametrize("text", ['<tool_call>\n{"name": "f"}\n</tool_call>', '{"name": "f", "arguments": {}}', "<functioncall> {}", "[TOOL_CALLS] []", "<|python_tag|>f()", "Action: f", '[f(town="Voi")]'])  # fmt: skip
def test_a_call_as_text_may_have_a_result(text: str) -> None:
    row = checked([U, {"role": "assistant", "content": text}, {"role": "tool", "tool_call_id": "7", "content": "x"}, A])
    assert isinstance(row, Row)
    assert row.conversation.messages[1].content == text


SPELLINGS = [{}, *({"arguments": a} for a in ({}, "{}", "", " ", None, "null", [], "[]"))]


def test_a_call_without_arguments_means_one_thing_in_every_spelling() -> None:
    rows = [
        checked(
            [U, {"role": "assistant", "tool_calls": [{"id": str(number), "function": {"name": "f", **spelling}}]}, A]
        )
        for number, spelling in enumerate(SPELLINGS)
    ]
    prints = {fingerprint(row.conversation) for row in rows if isinstance(row, Row)}
    assert not [row for row in rows if isinstance(row, BadRow)] and len(prints) == 1
    arguments = [
        row.conversation.messages[1].tool_calls[0]["function"]["arguments"] for row in rows if isinstance(row, Row)
    ]
    assert set(arguments) == {"{}"}
    call = {"name": "f", "arguments": {"town": "Mwanza", "at": 7}}
    row = checked([U, {"role": "assistant", "tool_calls": [call]}, A])
    assert isinstance(row, Row)
    assert row.conversation.messages[1].tool_calls[0]["function"]["arguments"] == '{"town": "Mwanza", "at": 7}'
    llama = {"name": "f", "parameters": {"town": "Mwanza", "at": 7}}
    for other in (llama, {"function": llama}):
        assert checked([U, {"role": "assistant", "tool_calls": [other]}, A]) == row


def test_further_fields_of_a_message_stay_for_the_template() -> None:
    row = checked([U, {**A, "reasoning_content": "hm", "weight": 1, "refusal": None}])
    assert isinstance(row, Row)
    assert row.conversation.messages[1].extra == {"reasoning_content": "hm", "weight": 1}


def test_a_report_counts_every_row_of_a_file(tmp_path: Path) -> None:
    lines = [
        json.dumps({"messages": [U, A]}),
        "{",
        json.dumps({"x": 1}),
        json.dumps({"prompt": "a", "completion": "b"}),
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(lines))
    report = check_source(open_source(path))
    assert (report.rows_read, report.rows_kept) == (4, 2)
    assert [row.row for row in report.bad] == [2, 3]
    assert report.formats == {"messages": 1, "prompt_completion": 1}
    assert sum(report.reasons.values()) == len(report.bad)


def test_a_refusal_lists_some_bad_rows_and_counts_all() -> None:
    with pytest.raises(InvalidData) as excinfo:
        refuse([BadRow("a.jsonl", number, f"has the role 'r{number}'") for number in range(1, 26)])
    assert excinfo.value.message == "25 rows can't be used. Correct them, or pass on_bad_row skip to leave them out."
    assert excinfo.value.faults[0] == "a.jsonl, row 1: has the role 'r1'"
    assert excinfo.value.faults[-1] == "... and 5 more"
    assert len(excinfo.value.faults) == 21
    refuse([])


def test_a_reason_that_many_rows_share_is_said_once() -> None:
    empty = [BadRow("a.jsonl", number, f"message {number} ('user') is empty") for number in (2, 4, 5, 6)]
    columns = [BadRow("b.csv", number, "has no 'messages' (it has: x)") for number in range(1, 500)]
    few = [BadRow("c.jsonl", number, "has no 'messages' (it has: x)") for number in range(1, 4)]
    with pytest.raises(InvalidData) as excinfo:
        refuse([*empty, *columns, BadRow("b.csv", 500, "'messages' is empty"), *few])
    assert excinfo.value.faults == (
        "a.jsonl, 4 rows (2, 4 to 6): a message ('user') is empty",
        "b.csv, 499 rows (1 to 499): has no 'messages' (it has: x)",
        "b.csv, row 500: 'messages' is empty",
        *(f"c.jsonl, row {number}: has no 'messages' (it has: x)" for number in (1, 2, 3)),
    )
    with pytest.raises(InvalidData) as excinfo:
        refuse([BadRow("a.jsonl", number, "is bad") for number in range(1, 100, 2)])
    assert excinfo.value.faults == ("a.jsonl, 50 rows (1, 3, 5, 7, 9, 11, 13, 15, 17, 19 ...): is bad",)


@pytest.mark.parametrize(
    "reason, kind",
    [
        pytest.param("message 2 ('user') is empty; message 4 ('user') is empty", "a message ('user') is empty", id="the same in two messages"),
        pytest.param("message 2, tool call 1 has arguments that aren't a JSON object: {; x", "a tool call has arguments that aren't a JSON object", id="what the row says"),
        pytest.param("message 1 ('user') has content that isn't text: 7; message 2 has no role", "a message ('user') has content that isn't text; a message has no role", id="two reasons"),
        pytest.param("message 3 answers the tool call 'c2', which doesn't stand before it", "a message answers the tool call, which doesn't stand before it", id="an id"),
        pytest.param("stands in the test rows (b.jsonl, row 7) as well, so it is kept out of training", "stands in the test rows as well, so it is kept out of training", id="a place"),
        pytest.param("cut at 64 tokens, before the assistant's first word (token 70 of 90); raise max_seq_length", "cut at 64 tokens, before the assistant's first word; raise max_seq_length", id="tokens"),
        pytest.param("isn't JSON: Expecting value (column 7)", "isn't JSON: Expecting value", id="a column"),
        pytest.param("isn't UTF-8: byte 0xff at position 3. Save the file as UTF-8", "isn't UTF-8: a byte of another encoding. Save the file as UTF-8", id="a byte"),
        pytest.param("has 3 cells, expected 5 as in the first line", "has more or fewer cells, not as many as in the first line", id="cells"),
        pytest.param("has the weight 2, expected 0 or 1", "has the weight 2, expected 0 or 1", id="a number that is the reason"),
    ],
)  # fmt: skip
def test_the_kind_of_a_reason_has_no_details_of_its_row(reason: str, kind: str) -> None:
    assert BadRow("a.jsonl", 1, reason).kind == kind


def test_conversations_that_differ_in_white_space_are_the_same() -> None:
    conversation = conversation_from_dict({"messages": [{"role": "user", "content": "Hi  there.\n"}, A]})
    same = conversation_from_dict({"messages": [{"role": "user", "content": "Hi there."}, A], "tools": []})
    another_conversation = conversation_from_dict({"messages": [{"role": "assistant", "content": "Hi there."}, A]})
    assert fingerprint(conversation) == fingerprint(same) != fingerprint(another_conversation)


def test_a_fingerprint_is_that_of_the_json_of_each_message() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": '{"ä": 1}'}}
    bodies = [
        {"role": "user", "content": 'Say "ü"\\ \n\t\x07 😀'},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "1"},
        {"role": "assistant", "content": "Done."},
    ]
    row = check_row(RawRow("f", 1, 0, {"messages": bodies}))
    assert isinstance(row, Row)
    parts = [
        ["user", 'Say "ü"\\ \x07 😀'],
        ["assistant", "", json.dumps(["f", {"ä": 1}], sort_keys=True)],
        ["tool", ""],
        ["assistant", "Done."],
    ]
    text = "".join(json.dumps(part) for part in parts)
    assert fingerprint(row.conversation) == hashlib.blake2b(text.encode(), digest_size=16).digest()
