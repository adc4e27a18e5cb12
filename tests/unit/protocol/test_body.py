"""A body is JSON that can be processed, or a refusal that names the part at fault."""

import json
from typing import Any

import pytest

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.body import MAX_DEPTH, check_values, parse_body, printable
from mafunzo.protocol.errors import error_body

HALF = "\ud83d"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_a_body_is_read() -> None:
    body = {"messages": [{"content": "\U0001f600 ok"}], "x": [1, 1.5, None, nested(MAX_DEPTH - 3)]}
    assert parse_body(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param({"messages": [{"role": "user", "content": f"cut {HALF}"}]}, "messages[0].content", id="a message"),
        pytest.param({"messages": [{"content": [{"text": HALF}]}]}, "messages[0].content[0].text", id="a part"),
        pytest.param({"prompt": ["a", HALF]}, "prompt[1]", id="a prompt"),
        pytest.param({"model": HALF}, "model", id="the model"),
        pytest.param({"stop": "\udc00"}, "stop", id="the other half"),
        pytest.param(
            {"tools": [{"function": {"description": HALF}}]}, "tools[0].function.description", id="a tool's description"
        ),
        pytest.param(
            {"tools": [{"function": {"x": {HALF: 1}}}]}, "tools[0].function.x.\\ud83d", id="a property's name"
        ),
        pytest.param({HALF: 1}, "\\ud83d", id="a field's name"),
        pytest.param(HALF, None, id="no object at all"),
        pytest.param({"messages": [nested(MAX_DEPTH)]}, "messages[0][0]", id="too deep"),
        pytest.param({"a": 1, "tools": nested(5000)}, "tools[0][0]", id="far too deep, as a value"),
    ],
)
def test_what_cannot_be_processed_is_refused_by_name(body: Any, param: str | None) -> None:
    with pytest.raises(InvalidParameter) as excinfo:
        check_values(body)
    assert excinfo.value.param == param
    json.dumps(error_body(excinfo.value, excinfo.value.param), ensure_ascii=False).encode()


def test_all_faults_of_a_body_are_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as excinfo:
        parse_body(json.dumps({"model": HALF, "messages": [{"content": HALF}]}).encode())
    assert "model has half" in excinfo.value.message and "messages[0].content has half" in excinfo.value.message


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(b"{", "isn't JSON", id="cut"),
        pytest.param(b"", "isn't JSON", id="empty"),
        pytest.param(b"\xff\xfe{", "isn't JSON", id="bytes that are no text"),
        pytest.param(b'{"a": NaN}', "NaN isn't a number in JSON", id="NaN"),
        pytest.param(b'{"a": 1e999}', "a is a number too large", id="infinite"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="too deep to parse"),
        pytest.param(b'{"a": "\xed\xa0\xbd"}', "half a character", id="a half as bytes"),
    ],
)
def test_bytes_that_are_no_json_are_refused(content: bytes, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        parse_body(content)


def test_an_error_can_always_be_written() -> None:
    assert printable(f"a{HALF}é") == "a\\ud83dé"
    error = error_body(InvalidParameter(f"no '{HALF}'"), HALF)
    assert error["error"]["message"] == "no '\\ud83d'" and error["error"]["param"] == "\\ud83d"
