"""Tests of `mafunzo.dataset.question`: what a row asks, in every form, and why a row asks nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.dataset.files import open_source
from mafunzo.dataset.question import Question, read_questions


def asked(folder: Path, *bodies: Any) -> list[Question]:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(body if isinstance(body, str) else json.dumps(body) for body in bodies))
    return list(read_questions(open_source(file)))


def turns(question: Question) -> str:
    return " ".join(f"{message.role[0]}:{message.content}" for message in question.conversation.messages)


def said(*texts: str) -> list[dict[str, str]]:
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[text[0]], "content": text[2:]} for text in texts]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        pytest.param({"messages": said("s:x", "u:1", "a:2", "u:3", "a:4")}, "s:x u:1 a:2 u:3", id="the last answer is left out"),
        pytest.param({"messages": said("u:1", "a:2", "u:3")}, "u:1 a:2 u:3", id="it ends on a question"),
        pytest.param({"messages": said("u:1", "a:2", "a:3")}, "u:1", id="several answers at the end"),
        pytest.param({"messages": said("u:1", "a:2"), "weight": 0}, "u:1", id="a row that training leaves out"),
        pytest.param({"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}]}, "u:1", id="ShareGPT"),
        pytest.param({"instruction": "1", "input": "2", "output": "3"}, "u:1\n2", id="Alpaca"),
        pytest.param({"instruction": "1", "input": "2"}, "u:1\n2", id="Alpaca without its answer"),
        pytest.param({"prompt": "1", "completion": "2"}, "u:1", id="prompt and completion"),
        pytest.param({"prompt": "1"}, "u:1", id="a prompt alone"),
        pytest.param({"prompt": "1", "completion": None}, "u:1", id="a cell that is empty"),
        pytest.param({"prompt": said("s:x", "u:1")}, "s:x u:1", id="messages as a prompt"),
        pytest.param({"question": "1", "system": "x"}, "s:x u:1", id="a question with a system message"),
        pytest.param({"input": "1"}, "u:1", id="an input alone"),
        pytest.param({"input_string": "1"}, "u:1", id="input_string as a text"),
        pytest.param({"input_data": {"input_string": said("u:1", "a:2", "u:3")}}, "u:1 a:2 u:3", id="a scoring request"),
        pytest.param({"input_data": json.dumps({"input_string": said("u:1", "a:2")})}, "u:1", id="one as a text"),
    ],
)  # fmt: skip
def test_a_row_asks_what_stands_before_its_last_answer(tmp_path: Path, row: dict[str, Any], prompt: str) -> None:
    (question,) = asked(tmp_path, row)
    assert not question.fault
    assert turns(question) == prompt


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        pytest.param({"text": "1"}, "asks nothing (it has: text). Known are messages;", id="no column that is known"),
        pytest.param({"messages": said("a:1")}, "has no question", id="an answer alone"),
        pytest.param({"messages": []}, "has no question", id="no message"),
        pytest.param({"messages": "hello"}, "'messages' is a text that isn't JSON", id="no list"),
        pytest.param({"messages": [{"role": "usr", "content": "1"}]}, "did you mean 'user'?", id="a role that isn't one"),
        pytest.param({"prompt": ""}, "message 1 ('user') is empty", id="an empty prompt"),
        pytest.param({"input_string": [said("u:1"), said("u:2")]}, "neither a text nor a list of messages", id="several at once"),
        pytest.param({"input_data": {"input_string": "1", "parameters": {"top_k": 1}}}, "has parameters of its own", id="parameters of a row"),
        pytest.param("{", "isn't JSON", id="a broken line"),
    ],
)  # fmt: skip
def test_a_row_that_asks_nothing_says_why_and_hides_no_other(tmp_path: Path, row: Any, fault: str) -> None:
    bad, good = asked(tmp_path, row, {"prompt": "1"})
    assert fault in bad.fault
    assert not bad.conversation.messages
    assert (good.index, good.row, turns(good)) == (1, 2, "u:1")


def test_tools_are_asked_with(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    (question,) = asked(tmp_path, {"messages": said("u:1", "a:2"), "tools": [tool]})
    assert question.conversation.tools == (tool,)
