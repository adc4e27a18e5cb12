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
        pytest.param({"input": "Hi.", "output": "Hello!", "system_prompt": "Be brief."}, "prompt_completion", [SYSTEM, USER, ASSISTANT], id="input and output"),
    ],
)  # fmt: skip
def test_a_row_is_recognised_by_its_keys(body: dict[str, Any], format: str, messages: list[Any]) -> None:
    parts = shape(body)
    assert (parts.format, parts.messages, parts.fault) == (format, messages, "")


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
        pytest.param({}, "has no 'messages' (it has: nothing)", id="nothing"),
        pytest.param({"messages": "[{"}, "'messages' is a text that isn't JSON, expected a list of messages", id="text"),
        pytest.param({"messages": 3}, "'messages' is a number", id="number"),
        pytest.param({"messages": None}, "has no 'messages'", id="null"),
        pytest.param({"instruction": "x", "output": "y", "history": ["a"]}, "'history' isn't a list of", id="history"),
    ],
)  # fmt: skip
def test_a_row_of_no_format_says_what_it_has(body: dict[str, Any], fault: str) -> None:
    assert fault in shape(body).fault
