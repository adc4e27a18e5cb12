"""The chat formats in use, all to OpenAI's messages."""

import json
from typing import Any

import pytest

from mafunzo.dataset.formats import shape

USER = {"role": "user", "content": "Hi."}
ASSISTANT = {"role": "assistant", "content": "Hello!"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "body, format, messages",
    [
        pytest.param({"messages": [USER, ASSISTANT], "prompt": "Hi.", "prompt_id": "1"}, "messages", [USER, ASSISTANT], id="ultrachat"),
        pytest.param({" messages ": json.dumps([USER, ASSISTANT])}, "messages", [USER, ASSISTANT], id="JSON in a cell"),
        pytest.param({"messages": str([USER, ASSISTANT])}, "messages", [USER, ASSISTANT], id="Python's print in a cell"),
        pytest.param({"messages": [{"role": "User", "content": "Hi.", "name": None}, ASSISTANT]}, "messages", [USER, ASSISTANT], id="nulls and capitals"),
        pytest.param({"messages": [{"role": "system", "content": ""}, USER, ASSISTANT]}, "messages", [USER, ASSISTANT], id="an empty system message"),
        pytest.param({"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello!"}]}, "sharegpt", [USER, ASSISTANT], id="ShareGPT"),
        pytest.param({"system": "Be brief.", "conversations": [{"from": "user", "value": "Hi."}, {"from": "assistant", "value": "Hello!"}]}, "sharegpt", [SYSTEM, USER, ASSISTANT], id="ShareGPT with system"),
        pytest.param({"system": "", "conversation": [{"from": "human", "value": "Hi."}, {"from": "model", "value": "Hello!"}]}, "sharegpt", [USER, ASSISTANT], id="ShareGPT, empty system"),
        pytest.param({"instruction": "Hi.", "input": "", "output": "Hello!"}, "alpaca", [USER, ASSISTANT], id="Alpaca"),
        pytest.param({"instruction": "Translate.", "input": "Hi.", "output": "Salut.", "system": "Be brief.", "history": [["Hi.", "Hello!"]]}, "alpaca", [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "Translate.\nHi."}, {"role": "assistant", "content": "Salut."}], id="Alpaca with all"),
        pytest.param({"prompt": "Hi.", "completion": "Hello!"}, "prompt_completion", [USER, ASSISTANT], id="prompt and completion"),
        pytest.param({"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}, "prompt_completion", [SYSTEM, USER, ASSISTANT], id="lists of messages"),
        pytest.param({"question": "Hi.", "answer": "Hello!"}, "prompt_completion", [USER, ASSISTANT], id="question and answer"),
        pytest.param({"prompt": "As JSON?", "completion": '{"town": "Voi"}'}, "prompt_completion", [{"role": "user", "content": "As JSON?"}, {"role": "assistant", "content": '{"town": "Voi"}'}], id="an answer that is JSON text"),
        pytest.param({"instruction": '["a"]', "output": "[-2, 2]"}, "alpaca", [{"role": "user", "content": '["a"]'}, {"role": "assistant", "content": "[-2, 2]"}], id="texts that are lists"),
        pytest.param({"question": "Who?", "answer": '[{"role": "user", "content": "Hi."}]'}, "prompt_completion", [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": '[{"role": "user", "content": "Hi."}]'}], id="an answer that is messages as text"),
        pytest.param({"prompt": json.dumps([SYSTEM, USER]), "completion": str([ASSISTANT])}, "prompt_completion", [SYSTEM, USER, ASSISTANT], id="lists of messages in cells"),
        pytest.param({"prompt": [USER], "completion": ASSISTANT}, "prompt_completion", [USER, ASSISTANT], id="one message for the answer"),
        pytest.param({"prompt": [{"type": "text", "text": "Hi."}], "completion": "Hello!"}, "prompt_completion", [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}, ASSISTANT], id="parts of content"),
        pytest.param({"id": "a", "system_prompt": "Be brief.", "question": "Hi.", "response": "Hello!"}, "prompt_completion", [SYSTEM, USER, ASSISTANT], id="OpenOrca"),
        pytest.param({"instruction": "Where?", "context": "In Lamu.", "response": "Lamu.", "category": "qa"}, "alpaca", [{"role": "user", "content": "Where?\nIn Lamu."}, {"role": "assistant", "content": "Lamu."}], id="Dolly"),
        pytest.param({"question": "Where?", "context": "In Lamu.", "answer": "Lamu."}, "prompt_completion", [{"role": "user", "content": "Where?\nIn Lamu."}, {"role": "assistant", "content": "Lamu."}], id="a question with its context"),
        pytest.param({"Prompt": "Hi.", "Completion ": "Hello!", "System Prompt": "Be brief."}, "prompt_completion", [SYSTEM, USER, ASSISTANT], id="capitals and spaces"),
        pytest.param({"Messages": [{"Role": "user", "Content": "Hi."}, ASSISTANT]}, "messages", [USER, ASSISTANT], id="capitals everywhere"),
        pytest.param({"messages": [{"role": "user", "value": "Hi."}, ASSISTANT]}, "messages", [USER, ASSISTANT], id="role and value"),
        pytest.param({"prompt": "Hi.", "completion": "Hello!", "history": [["Hi.", "Hello!"]]}, "prompt_completion", [USER, ASSISTANT, USER, ASSISTANT], id="a history beside any pair"),
        pytest.param({"prompt": "Hi.", "completion": "Hello!", "history": [USER, ASSISTANT]}, "prompt_completion", [USER, ASSISTANT, USER, ASSISTANT], id="a history of messages"),
        pytest.param({"prompt": [], "completion": "Hello!", "context": {}}, "prompt_completion", [{"role": "user", "content": ""}, ASSISTANT], id="an empty prompt stays empty"),
        pytest.param({"messages": [USER, ASSISTANT], "train": True, "weight": "1"}, "messages", [USER, ASSISTANT], id="a row that is trained"),
        pytest.param({"instruction": "Hi.", "input": float("nan"), "output": "Hello!"}, "alpaca", [USER, ASSISTANT], id="NaN of a table"),
        pytest.param({"input": "Hi.", "output": "Hello!", "system_prompt": "Be brief."}, "prompt_completion", [SYSTEM, USER, ASSISTANT], id="input and output"),
    ],
)  # fmt: skip
def test_a_row_is_recognised_by_its_keys(body: dict[str, Any], format: str, messages: list[Any]) -> None:
    parts = shape(body)
    assert (parts.format, parts.messages, parts.fault) == (format, messages, "")


@pytest.mark.parametrize(
    "value, text",
    [
        pytest.param(4, "4", id="number"),
        pytest.param(False, "false", id="false"),
        pytest.param(["pear", "fig"], '["pear", "fig"]', id="list"),
        pytest.param({"town": "Lamu"}, '{"town": "Lamu"}', id="object"),
    ],
)  # fmt: skip
def test_a_value_that_is_no_text_is_written_as_json_and_noted(value: Any, text: str) -> None:
    parts = shape({"instruction": "Is it open?", "input": value, "output": "No."})
    assert parts.messages[0]["content"] == f"Is it open?\n{text}"
    assert parts.notes == ("has a value in 'input' that isn't a text, written as JSON",)
    parts = shape({"prompt": "Hi.", "completion": value})
    assert parts.messages[1] == {"role": "assistant", "content": text}
    assert parts.notes == ("has a value in 'completion' that isn't a text, written as JSON",)


@pytest.mark.parametrize(
    "body, columns",
    [
        pytest.param({"messages": [USER, ASSISTANT], "prompt": "Hi.", "prompt_id": "1"}, ["prompt", "prompt_id"], id="ultrachat"),
        pytest.param({"prompt": "Hi.", "completion": "Hello!", "label": False, "Passage": "x"}, ["label", "Passage"], id="others beside a pair"),
        pytest.param({"messages": [SYSTEM, USER, ASSISTANT], "system": "Be kind."}, ["system"], id="another system message"),
        pytest.param({"messages": [SYSTEM, USER, ASSISTANT], "system": "Be brief."}, [], id="the same system message"),
        pytest.param({"prompt": "Hi.", "completion": "Hello!", "system": "Be brief.", "system_prompt": "Be kind."}, ["system_prompt"], id="two system messages"),
        pytest.param({"prompt": "Hi.", "completion": "Hello!", "question": "Who?", "answer": "I."}, ["question", "answer"], id="two pairs"),
        pytest.param({"prompt": "Hi.", "completion": "Hello!", "conversation": "c-17"}, ["conversation"], id="a pair beside the id of its conversation"),
        pytest.param({"messages": [USER, ASSISTANT], "conversations": [USER, ASSISTANT]}, ["conversations"], id="two lists of messages"),
        pytest.param({"prompt": [USER], "completion": "Hello!", "context": "x"}, ["context"], id="a context beside messages"),
        pytest.param({"messages": [USER, ASSISTANT], "tools": [], "functions": [{"name": "f"}]}, ["functions"], id="two lists of tools"),
        pytest.param({"prompt": "Hi.", "Prompt": "Who?", "completion": "Hello!", "note": "", "tags": []}, ["Prompt"], id="two spellings, empty ones"),
    ],
)  # fmt: skip
def test_a_column_that_isnt_read_is_noted(body: dict[str, Any], columns: list[str]) -> None:
    assert list(shape(body).notes) == [f"has a column '{name}', which isn't read" for name in columns]


def test_a_prompt_of_messages_as_text_stays_a_text_and_is_noted() -> None:
    parts = shape({"prompt": json.dumps([USER]), "completion": "Hello!"})
    assert parts.messages[0] == {"role": "user", "content": json.dumps([USER])}
    assert parts.notes == ("has messages as JSON in 'prompt', which stay a text, since 'completion' has none",)


CALL_TEXT = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def test_hermes_results_are_read_without_their_tags_and_its_tools_once() -> None:
    turns = [
        {"from": "system", "value": "Call. <tools>[]</tools>"},
        {"from": "human", "value": "Hi."},
        {"from": "gpt", "value": CALL_TEXT},
        {"from": "tool", "value": "<tool_response>\na\n</tool_response>\n<tool_response>\nb\n</tool_response>"},
        {"from": "gpt", "value": "Hello!"},
    ]
    parts = shape({"conversations": turns, "tools": '[{"name": "f"}]'})
    assert parts.messages[2:5] == [
        {"role": "assistant", "content": CALL_TEXT},
        {"role": "tool", "content": "a"},
        {"role": "tool", "content": "b"},
    ]
    assert parts.tools is None
    assert parts.notes == (
        "has a tool's result in <tool_response> tags, read without them: templates write their own",
        "has a column 'tools', which isn't read",
    )
    only_inside = {"from": "tool", "value": "It says <tool_response>a</tool_response>"}
    assert shape({"conversations": [only_inside]}).messages == [{"role": "tool", "content": only_inside["value"]}]


@pytest.mark.parametrize("content, text", [({"a": 1}, '{"a": 1}'), ([1], "[1]"), (7, "7"), ([], "[]")])
def test_a_result_that_is_no_text_is_written_as_json_and_noted(content: Any, text: str) -> None:
    parts = shape({"messages": [{"role": "tool", "content": content}]})
    assert parts.messages == [{"role": "tool", "content": text}]
    assert parts.notes == ("has a tool's result that isn't a text, written as JSON",)
    part = {"role": "tool", "content": [{"type": "text", "text": "a"}]}
    assert shape({"messages": [part]}).messages == [part]


def test_a_turn_that_is_a_call_may_stand_in_tags() -> None:
    parts = shape({"conversations": [{"from": "function_call", "value": CALL_TEXT * 2, "loss": False}]})
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    assert parts.messages == [{"role": "assistant", "tool_calls": [call, call], "loss": False}]


def test_calls_of_sharegpt_and_older_openai_become_tool_calls() -> None:
    call = {"name": "weather", "arguments": {"city": "Bern"}}
    expected = {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
    sharegpt = {
        "conversations": [{"from": "function_call", "value": json.dumps(call)}, {"from": "observation", "value": "sun"}]
    }
    assert shape(sharegpt).messages == [expected, {"role": "tool", "content": "sun"}]
    older = {
        "messages": [
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "content": "sun"},
        ]
    }
    assert shape(older).messages == [expected, {"role": "tool", "content": "sun"}]


def test_tools_are_read_from_a_cell() -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert shape({"messages": [USER], "tools": json.dumps(tools)}).tools == tools


@pytest.mark.parametrize(
    "body, fault",
    [
        pytest.param({"text": "x", "label": 1}, "has no 'messages' (it has: text, label). Known are messages; conversations", id="other"),
        pytest.param({"prompt": "x", "completion": None}, "has no 'messages' (it has: prompt; null: completion)", id="a null answer"),
        pytest.param({"messages": [USER, ASSISTANT], "weight": 0}, "has weight 0 for the whole row, so there is nothing to learn from it", id="a row of weight 0"),
        pytest.param({"prompt": "a", "completion": "b", "train": "False"}, 'has train "False" for the whole row', id="an excluded row of a csv file"),
        pytest.param({"dialog": [USER, ASSISTANT]}, "prompt and completion. Rename 'dialog' to 'messages'", id="messages of another name"),
        pytest.param({"ask": "x", "prompt": "y"}, "Rename 'ask' to 'completion', whichever holds the answer beside 'prompt'", id="a prompt only"),
        pytest.param({"Frage": "x", "Title": "y", "answer": "z"}, "Rename 'Frage' or 'Title' to 'prompt', whichever holds the question beside 'answer'", id="an answer only"),
        pytest.param({"Frage": "x", "Antwort": "y"}, "Rename the column of the question to 'prompt', and that of the answer to 'completion'", id="other names"),
        pytest.param({}, "has no 'messages' (it has: nothing)", id="nothing"),
        pytest.param({"messages": "[{"}, "'messages' is a text that isn't JSON, expected a list of messages", id="text"),
        pytest.param({"messages": 3}, "'messages' is a number", id="number"),
        pytest.param({"messages": None}, "has no 'messages'", id="null"),
        pytest.param({"instruction": "x", "output": "y", "history": ["a"]}, "'history' isn't a list of", id="history"),
    ],
)  # fmt: skip
def test_a_row_of_no_format_says_what_it_has(body: dict[str, Any], fault: str) -> None:
    assert fault in shape(body).fault
