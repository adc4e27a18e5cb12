"""Whatever a network says, a reply that is held to a grammar is JSON of the schema, or calls of the functions."""

import json
from typing import Any

import jsonschema
import pytest
import torch

from mafunzo.compute.inference.grammar import GrammarCompiler
from mafunzo.compute.inference.structure import CallForm, call_form, grammar
from mafunzo.errors import InvalidParameter
from mafunzo.protocol.tool_call import ToolCallFilter
from tests.support.chat_families import family

FAMILIES = ("qwen2_5", "phi3", "llama3_2", "smollm2", "gemma", "mistral")
BOUNDED = {
    "type": "object",
    "properties": {
        "kind": {"$ref": "#/$defs/Kind"},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 2},
        "more": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    },
    "required": ["kind", "count", "tags", "more"],
    "additionalProperties": False,
    "$defs": {"Kind": {"enum": ['small "é"', "<|im_end|>", "a<tool_call>b"]}},
}
ADD = {"type": "function", "function": {"name": "add", "parameters": BOUNDED}}
NAMED = {"type": "function", "function": {"name": 'say "hi"'}}
EXTRA = 7


def compiler(name: str) -> GrammarCompiler:
    tokenizer = family(name)
    return GrammarCompiler(tokenizer, len(tokenizer) + EXTRA, [tokenizer.eos_token_id])


def reply(name: str, text: str, seed: int) -> str:
    """The text of a network that says anything, held to a grammar."""
    tokenizer, generator = family(name), torch.Generator().manual_seed(seed)
    matcher = compiler(name).compile(text, "response_format").matcher()
    ids: list[int] = []
    while not matcher.is_over:
        token_id = int(matcher.mask(torch.randn(len(tokenizer) + EXTRA, generator=generator)).argmax())
        if token_id == tokenizer.eos_token_id:
            break
        matcher.accept(token_id)
        ids.append(token_id)
    return str(tokenizer.decode(ids, skip_special_tokens=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_is_json_of_its_schema(name: str) -> None:
    for seed in range(3):
        body = json.loads(reply(name, grammar(BOUNDED, (), CallForm(), True), seed))
        jsonschema.validate(body, BOUNDED)


def test_an_object_that_lists_its_properties_has_no_others() -> None:
    schema = {"type": "object", "properties": {"is_last": {"type": "boolean"}}, "required": ["is_last"]}
    tool = {"type": "function", "function": {"name": "end", "parameters": schema}}
    assert {reply("phi3", grammar(schema, (), CallForm(), True), seed) for seed in range(8)} == {
        '{"is_last": true}',
        '{"is_last": false}',
    }
    called = reply("phi3", grammar(None, (tool,), CallForm(), False), 0)
    assert list(json.loads(called)["arguments"]) == ["is_last"]


@pytest.mark.parametrize("may_call_several", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_reply_that_must_call_is_read_as_calls(name: str, may_call_several: bool) -> None:
    form = call_form(family(name).chat_template, compiler(name).added_token_id)
    counts = set()
    for seed in range(6):
        calls_in = ToolCallFilter(["add", 'say "hi"'])
        text = calls_in.add(reply(name, grammar(None, (ADD, NAMED), form, may_call_several), seed))
        rest, calls = calls_in.finish()
        assert (text + rest).strip() == "" and calls
        counts.add(len(calls))
        for call in calls:
            arguments = json.loads(call["function"]["arguments"])
            jsonschema.validate(arguments, BOUNDED if call["function"]["name"] == "add" else {"maxProperties": 0})
    assert max(counts) > 1 if may_call_several else counts == {1}


def test_a_reply_may_be_either_where_nothing_is_forced() -> None:
    form = call_form(family("qwen2_5").chat_template, compiler("qwen2_5").added_token_id)
    text = grammar({"type": "boolean"}, (NAMED,), form, False)
    replies = {reply("qwen2_5", text, seed) for seed in range(12)}
    assert {"true", "false"} & replies and any("say" in text for text in replies)


def test_the_form_of_a_call_is_the_template_s() -> None:
    assert call_form(family("llama3_2").chat_template, lambda tag: None) == CallForm(arguments="parameters")
    assert call_form("<tool_call>", {"<tool_call>": 5, "</tool_call>": 6}.get) == CallForm("<[5]>", "<[6]>")
    assert call_form("", lambda tag: None) == CallForm()


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        pytest.param({"type": "wat"}, "Invalid type: wat", id="no type"),
        pytest.param({"$ref": "#/nope"}, "does not exist", id="a reference to nothing"),
        pytest.param({"type": "array", "uniqueItems": True}, "uniqueItems", id="what can't be enforced"),
        pytest.param({"type": "string", "pattern": "(?=x)y"}, "look-around", id="a pattern that can't be enforced"),
        pytest.param({"properties": []}, "", id="a schema that is none"),
        pytest.param({"type": "integer", "minimum": 5, "maximum": 1}, "", id="nothing is allowed"),
    ],
)
def test_a_schema_that_replies_cannot_be_held_to_is_refused(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(
        InvalidParameter, match="response_format has a JSON schema that replies can't be held to: "
    ) as caught:
        compiler("phi3").compile(grammar(schema, (), CallForm(), True), "response_format")
    assert caught.value.param == "response_format" and text in caught.value.message


def test_a_grammar_is_compiled_once() -> None:
    grammars, text = compiler("phi3"), grammar({"type": "boolean"}, (), CallForm(), True)
    assert grammars.compile(text, "x") is grammars.compile(text, "x")
