"""A model that may call and needn't: its text is free, and what it calls is one of the functions, with arguments of its schema.

The networks here say what a test has written, as far as that may be said, and then anything.
"""

import json
from functools import cache
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import AddedToken

from mafunzo.compute.inference.grammar import GrammarCompiler, Matcher
from mafunzo.compute.inference.request_grammar import request_grammar
from mafunzo.errors import InvalidParameter
from mafunzo.protocol.chat import chat_request_from_dict
from mafunzo.protocol.tool_call import ToolCallFilter
from tests.support.chat_families import make_tokenizer

TEMPLATE = "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}<tool_call>"
COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"]}
PAINT = {"type": "function", "function": {"name": "paint", "parameters": COLOUR}}
WASH = {"type": "function", "function": {"name": "wash"}}
UNIQUE = {"type": "object", "properties": {"walls": {"type": "array", "uniqueItems": True}}}
MOST_TOKENS = 300
TAGS_ARE_TOKENS = pytest.mark.parametrize("tags_are_tokens", [True, False], ids=["tags are tokens", "tags are text"])


@cache
def tokenizer(tags_are_tokens: bool) -> Any:
    made = make_tokenizer(TEMPLATE, None, "<|end|>", ["<|end|>", "<|start|>"])
    tags = ["<think>", "</think>", *(["<tool_call>", "</tool_call>"] if tags_are_tokens else [])]
    made.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return made


def matcher(tokenizer: Any, tools: list[Any], **fields: Any) -> Matcher | None:
    request = chat_request_from_dict({"messages": [{"role": "user", "content": "Hi"}], "tools": tools, **fields})
    grammars = GrammarCompiler(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    compiled = request_grammar(request, tokenizer, grammars)
    return None if compiled is None else compiled.matcher()


def reply(tokenizer: Any, matcher: Matcher, script: str, seed: int = 0) -> str:
    """The text of a network that says the script as far as it may, then anything up to the end of a call, or an end."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    written = tokenizer.encode(script, add_special_tokens=False)
    while len(ids) < MOST_TOKENS:
        logits = torch.randn(len(tokenizer), generator=generator)
        if len(ids) < len(written) and ids == written[: len(ids)]:
            logits[written[len(ids)]] = 100.0
        elif tokenizer.decode(ids).endswith("</tool_call>"):
            break
        ids.append(int(matcher.mask(logits).argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            ids.pop()
            break
        matcher.accept(ids[-1])
    return str(tokenizer.decode(ids))


def read(text: str) -> tuple[str, list[Any]]:
    calls_in = ToolCallFilter(["paint", "wash"])
    head = calls_in.add(text)
    tail, calls = calls_in.finish()
    return head + tail, [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@TAGS_ARE_TOKENS
@pytest.mark.parametrize("seed", range(4))
def test_a_call_that_was_opened_is_one_of_a_function_with_arguments_of_its_schema(tags_are_tokens, seed):
    words = tokenizer(tags_are_tokens)
    text = reply(words, matcher(words, [PAINT, WASH]), "Let me see: {1 < 2}.\n<tool_call>", seed)
    before, [(name, arguments)] = read(text)
    assert before == "Let me see: {1 < 2}.\n"
    jsonschema.validate(arguments, COLOUR if name == "paint" else {"maxProperties": 0})


@TAGS_ARE_TOKENS
def test_arguments_that_the_schema_does_not_allow_cannot_be_written(tags_are_tokens):
    words = tokenizer(tags_are_tokens)
    start = '<tool_call>\n{"name": "paint", "arguments": {"colour": "'
    _, calls = read(reply(words, matcher(words, [PAINT]), start + 'blue"}}\n</tool_call>'))
    assert calls in ([("paint", {"colour": "red"})], [("paint", {"colour": "green"})])
    _, [(name, _)] = read(reply(words, matcher(words, [PAINT]), '<tool_call>\n{"name": "drop"'))
    assert name == "paint"


@TAGS_ARE_TOKENS
@pytest.mark.parametrize(
    "script",
    [
        pytest.param("No call is needed: <b>7 é 世界</b> {}", id="text"),
        pytest.param("<think>Should I\n<tool_cal? No.</think>Yes.", id="tokens of the model's own, and half a tag"),
        pytest.param("<|start|>", id="a special token"),
        pytest.param("", id="nothing"),
    ],
)
def test_text_without_a_call_is_free(tags_are_tokens, script):
    words = tokenizer(tags_are_tokens)
    assert reply(words, matcher(words, [PAINT]), script + "<|end|>") == script


CALL = '<tool_call>\n{"name": "paint", "arguments": {"colour": "red"}}\n</tool_call>'


@TAGS_ARE_TOKENS
def test_several_calls_and_text_between_them_may_follow(tags_are_tokens):
    words = tokenizer(tags_are_tokens)
    text = reply(words, matcher(words, [PAINT]), f"One: {CALL}\nTwo: {CALL}\nDone.<|end|>")
    assert text == f"One: {CALL}\nTwo: {CALL}\nDone."


def test_a_single_call_is_the_only_one_where_no_others_are_wanted():
    words = tokenizer(True)
    only = matcher(words, [PAINT], parallel_tool_calls=False)
    text = reply(words, only, f"{CALL}\n{CALL}")
    assert text.startswith(CALL) and text.count("<tool_call>") == 1


@TAGS_ARE_TOKENS
def test_a_function_that_cannot_be_held_to_its_schema_is_called_with_any_object(tags_are_tokens):
    words = tokenizer(tags_are_tokens)
    tidy = {"type": "function", "function": {"name": "wash", "parameters": UNIQUE}}
    call = '<tool_call>\n{"name": "wash", "arguments": {"walls": [1, 1]}}\n</tool_call>'
    assert reply(words, matcher(words, [PAINT, tidy]), call) == call
    blue = call.replace("wash", "paint").replace('"walls": [1, 1]', '"colour": "blue"')
    assert reply(words, matcher(words, [PAINT, tidy]), blue) != blue
    strict = {"type": "function", "function": {**tidy["function"], "strict": True}}
    with pytest.raises(InvalidParameter, match=r"tools has a JSON schema that replies can't be held to: .*uniqueItems"):
        matcher(words, [PAINT, strict])


@cache
def bare_tokenizer() -> Any:
    made = make_tokenizer(TEMPLATE.replace("<tool_call>", ""), None, "<|end|>", ["<|end|>", "<|start|>"])
    made.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "start", ['{"name": "paint"', '[{"name": "paint", ', '<|start|>{"name": "paint"', '{"name": "wash", "a']
)
def test_a_bare_call_that_was_begun_is_one_of_a_function_with_arguments_of_its_schema(start: str, seed: int):
    words = bare_tokenizer()
    text = reply(words, matcher(words, [PAINT, WASH]), start, seed)
    rest, calls = read(text.removeprefix("<|start|>"))
    assert rest == "" and calls
    for name, arguments in calls:
        jsonschema.validate(arguments, COLOUR if name == "paint" else {"maxProperties": 0})


def test_bare_arguments_that_the_schema_does_not_allow_cannot_be_written():
    words = bare_tokenizer()
    _, calls = read(reply(words, matcher(words, [PAINT]), '{"name": "paint", "arguments": {"colour": "blue"}}'))
    assert calls in ([("paint", {"colour": "red"})], [("paint", {"colour": "green"})])
    several = '[{"name": "paint", "arguments": {"colour": "red"}}, {"name": "paint", "arguments": {"colour": "green"}}]'
    text = reply(words, matcher(words, [PAINT]), several)
    assert read(text) == ("", [("paint", {"colour": "red"}), ("paint", {"colour": "green"})])
    spaced = reply(words, matcher(words, [PAINT]), ' \n{ "name" : "paint" , "arguments": {"colour": "blue"}}<|end|>')
    assert read(spaced)[1] == [], "a call in other white space can't be written"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("No call is needed: {1 < 2} 7 é 世界", id="text"),
        pytest.param('{"answer": [1, 2]}', id="other JSON"),
        pytest.param('{"name": "Amina", "arguments": 3}', id="a name that is no function"),
        pytest.param("[1, 2, 3]", id="a list"),
        pytest.param(
            'I call {"name": "paint", "arguments": {"colour": "blue"}}', id="a call that isn't the whole reply"
        ),
        pytest.param("<think>Hm.", id="a token of the model's own"),
        pytest.param("", id="nothing"),
    ],
)
def test_text_that_is_no_bare_call_is_free(script: str):
    words = bare_tokenizer()
    assert reply(words, matcher(words, [PAINT]), script + "<|end|>") == script


def test_what_never_ends_and_what_may_not_call_are_held_to_nothing():
    words = tokenizer(True)
    assert matcher(words, [PAINT], ignore_eos=True) is None
    assert matcher(words, [PAINT], tool_choice="none") is None
    assert matcher(words, []) is None
