"""Tool calls found in a model's text, however it comes."""

import pytest

from mafunzo.protocol.tool_call import ToolCallFilter

HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        pytest.param("Just text.", "Just text.", [], id="no call"),
        pytest.param(HERMES, "", [("weather", '{"city": "K\\u00f6ln"}')], id="Qwen's"),
        pytest.param(
            f"Let me look.\n{HERMES}\n{HERMES}", "Let me look.\n", [("weather", '{"city": "K\\u00f6ln"}')] * 2, id="two"
        ),
        pytest.param('{"name": "weather", "parameters": {}}', "", [("weather", "{}")], id="Llama's"),
        pytest.param('[{"name": "weather", "arguments": "{}"}]', "", [("weather", "{}")], id="Phi's"),
        pytest.param(
            '{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', [], id="not a known function"
        ),
        pytest.param("[1, 2, 3]", "[1, 2, 3]", [], id="JSON that is no call"),
        pytest.param("{broken", "{broken", [], id="broken JSON"),
        pytest.param("a <tool_call>{broken", "a <tool_call>{broken", [], id="broken call"),
        pytest.param("1 < 2 and <tool", "1 < 2 and <tool", [], id="only the beginning"),
        pytest.param("see {x}", "see {x}", [], id="a brace within text"),
        pytest.param(
            f"Wait. {HERMES}\nONE MOMENT.",
            "Wait. \nONE MOMENT.",
            [("weather", '{"city": "K\\u00f6ln"}')],
            id="text after",
        ),
        pytest.param(
            '<tool_call>{"name": "weather"}</tool_call> AND <tool_call>{"name": "weather"}</tool_call>',
            " AND ",
            [("weather", "{}")] * 2,
            id="text between",
        ),
        pytest.param(
            '<tool_call>{"name": "weather", "arguments": {"city": "a </tool_call> b"}}</tool_call> x',
            " x",
            [("weather", '{"city": "a </tool_call> b"}')],
            id="a closing tag in an argument",
        ),
        pytest.param(
            '<tool_call>{"name": "weather", "arguments": {"city": "<tool_call>"}}</tool_call>',
            "",
            [("weather", '{"city": "<tool_call>"}')],
            id="an opening tag in an argument",
        ),
        pytest.param(
            '{"name": "weather", "arguments": {"city": "a<tool_call>b"}}',
            "",
            [("weather", '{"city": "a<tool_call>b"}')],
            id="a tag in a bare call",
        ),
        pytest.param(
            f'{HERMES}\n<tool_call>\n{{"name": "wea',
            '\n<tool_call>\n{"name": "wea',
            [("weather", '{"city": "K\\u00f6ln"}')],
            id="one that was cut off after a whole one",
        ),
        pytest.param('{"name": "weather", "arguments": null}', "", [("weather", "{}")], id="null for no arguments"),
        pytest.param('{"name": ["weather"]}', '{"name": ["weather"]}', [], id="a name that is no text"),
        pytest.param(
            '{"name": "weather", "arguments": {"a": NaN}}', '{"name": "weather", "arguments": {"a": NaN}}', [], id="NaN"
        ),
        pytest.param(
            '{"name": "weather", "arguments": "\\ud83d"}', "", [("weather", "\\ud83d")], id="half a character"
        ),
        pytest.param('{"name": "weather"} and', '{"name": "weather"} and', [], id="text after a bare call"),
        pytest.param("[" * 9000, "[" * 9000, [], id="nested too deeply"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls_are_found_however_the_text_comes(
    text: str, content: str, calls: list[tuple[str, str]], size: int
) -> None:
    calls_in = ToolCallFilter(["weather"], new_id=lambda: "id")
    head = "".join(calls_in.add(text[i : i + size]) for i in range(0, len(text), size))
    tail, tool_calls = calls_in.finish()
    assert head + tail == content
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in tool_calls] == calls


def test_text_before_a_call_comes_at_once() -> None:
    calls_in = ToolCallFilter(["weather"])
    assert calls_in.add("Let me ") == "Let me "
    assert calls_in.add("look <tool") == "look "
    assert calls_in.add("s>") == "<tools>"


def test_calls_have_ids_of_their_own() -> None:
    calls_in = ToolCallFilter(["weather"])
    calls_in.add(HERMES + HERMES)
    first, second = (call["id"] for call in calls_in.finish()[1])
    assert first.startswith("call_") and first != second


def test_one_text_that_is_no_call_beside_one_makes_all_of_it_text() -> None:
    text = HERMES + '<tool_call>{"name": "other"}</tool_call>'
    calls_in = ToolCallFilter(["weather"])
    assert (calls_in.add(text), calls_in.finish()) == ("", (text, []))
