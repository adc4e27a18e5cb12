"""The structure that a request asks its reply to have, as a grammar: JSON of a schema, calls of functions, or either.

Where a model may call and needn't, its text is free until it opens a call: what follows is a call of one of the functions.
Calls are written as the model's own template writes them, and read back from the text by `protocol/tool_call.py`. JSON
is written with single spaces, as `json.dumps` does: a grammar that lets white space grow lets a weak model never end.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mafunzo.compute.inference.json_schema import closed
from mafunzo.protocol.tool_call import CLOSING, OPENING

MAX_CALLS = 16
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class CallForm:
    """How a model writes a call. opening, closing: the tags around each, in Lark; empty for a reply that is a bare call, or
    a list of several. arguments: the name of that field."""

    opening: str = ""
    closing: str = ""
    arguments: str = "arguments"


def call_form(template: str, added_token_id: Callable[[str], int | None]) -> CallForm:
    """Return the form in which a chat template shows calls; `added_token_id` finds a tag that is a token of its own."""
    if OPENING in template:
        opening, closing = (_tag(tag, added_token_id(tag)) for tag in (OPENING, CLOSING))
        return CallForm(opening, closing)
    return CallForm(arguments="parameters" if '"parameters"' in template else "arguments")


def grammar(
    answer_schema: Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]], form: CallForm, may_call_several: bool
) -> str:
    """Return a grammar of replies that are JSON of `answer_schema`, or calls of `tools`; at least one is there."""
    rules = []
    starts = []
    if answer_schema is not None:
        starts.append("answer")
        rules.append(f"answer: {_json(answer_schema)}")
    if tools:
        starts.append("calls")
        rules += [*_calls(form, may_call_several), *_call(tools, form)]
    return "\n".join(["%llguidance {}", f"start: {' | '.join(starts)}", *rules])


def text_and_calls(
    tools: Sequence[Mapping[str, Any]], form: CallForm, may_call_several: bool, free_token_ids: Sequence[int]
) -> str:
    """Return a grammar of replies whose text is free, and in which an opening tag begins a call of `tools`.

    free_token_ids: added tokens, which a grammar's text doesn't include, that may stand in the free text.
    """
    if not form.opening:
        return _text_or_bare_calls(tools, form, may_call_several, free_token_ids)
    free_tokens = f" | <[{','.join(map(str, free_token_ids))}]>" if free_token_ids else ""
    is_token = form.opening.startswith("<[")
    opening = form.opening if is_token else "text_and_tag"
    rules = [
        f"start: free (block free){'*' if may_call_several else '?'}",
        f"free: (TEXT{free_tokens})*",
        r"TEXT: /(.|\n)+/",
        f'block: {opening} "\\n" call "\\n" {form.closing}',
        *_call(tools, form),
    ]
    if not is_token:  # lazy: it ends where the tag does, and the free text may not go on with it
        rules.append(rf"text_and_tag[lazy]: /(.|\n)*/ {form.opening}")
    return "\n".join(["%llguidance {}", *rules])


def _text_or_bare_calls(
    tools: Sequence[Mapping[str, Any]], form: CallForm, may_call_several: bool, free_token_ids: Sequence[int]
) -> str:
    """Return a grammar of replies that are bare calls of `tools`, or text that doesn't begin as one: all other JSON is free."""
    names = "|".join(_literal(json.dumps(tool["function"]["name"], ensure_ascii=False)) for tool in tools)
    token = f"<[{','.join(map(str, free_token_ids))}]>" if free_token_ids else ""
    rules = [
        f"start: {f'{token}* ' if token else ''}(calls | text)",
        f"text: TEXT?{f' ({token} TEXT?)*' if token else ''}",
        rf'TEXT: /(.|\n)+/ & ~/\s*\[?\s*\{{\s*"name"\s*:\s*({names})(.|\n)*/',
        "calls: call" + (f' | first (", " call){{1,{MAX_CALLS - 1}}} "]"' if may_call_several else ""),
        *_call(tools, form),
    ]
    if may_call_several:
        # With the bracket in one piece: alone it would be taken for the beginning of text, which goes on longer.
        rules += _heads(tools, form, "first", "[")
    return "\n".join(["%llguidance {}", *rules])


def _literal(text: str) -> str:
    """Return a regular expression of exactly this text, as it stands between slashes."""
    return re.sub(r"([^\w\s])", r"\\\1", text)


def with_any_arguments(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function that takes any object."""
    return {**tool, "function": {**tool["function"], "parameters": {"type": "object"}}}


def _call(tools: Sequence[Mapping[str, Any]], form: CallForm) -> list[str]:
    """Return the rule of a call of any of the functions."""
    arguments = [f"arguments_{i}: {_json(_parameters(tool))}" for i, tool in enumerate(tools)]
    return _heads(tools, form, "call", "") + arguments


def _heads(tools: Sequence[Mapping[str, Any]], form: CallForm, rule: str, before: str) -> list[str]:
    """Return a rule of calls with a text before them."""
    rules = [f"{rule}: {' | '.join(f'{rule}_{i}' for i in range(len(tools)))}"]
    for i, tool in enumerate(tools):
        head = f'{before}{{"name": {json.dumps(tool["function"]["name"], ensure_ascii=False)}, "{form.arguments}": '
        rules.append(f'{rule}_{i}: {_text(head)} arguments_{i} "}}"')
    return rules


def _calls(form: CallForm, may_call_several: bool) -> list[str]:
    if form.opening:
        more = f'("\\n" block){{0,{MAX_CALLS - 1}}}' if may_call_several else ""
        return [f"calls: block {more}", f'block: {form.opening} "\\n" call "\\n" {form.closing}']
    if may_call_several:
        return [f'calls: call | "[" call (", " call){{1,{MAX_CALLS - 1}}} "]"']
    return ["calls: call"]


def _parameters(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a function's arguments, which are an object always."""
    parameters = tool["function"].get("parameters")
    if parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "object", **parameters}


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**closed(schema), "x-guidance": _SPACING})


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _tag(tag: str, token_id: int | None) -> str:
    return _text(tag) if token_id is None else f"<[{token_id}]>"
