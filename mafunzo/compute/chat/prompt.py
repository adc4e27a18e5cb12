"""The prompt of a request: a conversation as the model was trained to read it, and nothing of it left out silently.

Training refuses what a template can't render exactly (`mask.py`). A server must go on with what a model wrote before: calls
whose arguments are broken, and calls in front of a template that has no form for them.
"""

import inspect
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Environment, nodes
from jinja2.meta import find_undeclared_variables

from mafunzo.compute.chat.template import (
    Messages,
    Tools,
    render_messages,
    template_messages,
    template_name,
    template_source,
)
from mafunzo.entities.conversation import Conversation
from mafunzo.errors import InvalidData, InvalidParameter

_OTHER = "xSENTINELx"
_GENERATION_TAG = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")
"""Of `transformers`, which Jinja alone doesn't know."""


def render_prompt(
    tokenizer: Any,
    conversation: Conversation,
    add_generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Return a request's conversation as text; `variables` are further ones of the template, such as Qwen3's `enable_thinking`.

    Raises `InvalidParameter` where the template refuses it, or has no place for tools or a variable that were passed.
    """
    _check_variables(tokenizer, conversation, variables or {})
    tools = [dict(tool) for tool in conversation.tools] or None
    try:
        messages = template_messages(tokenizer, conversation, takes_broken_arguments=True)
        text = _render(tokenizer, messages, tools, add_generation_prompt, variables)
        if tools and text == _render(tokenizer, messages, None, add_generation_prompt, variables):
            raise InvalidParameter(
                f"tools: the chat template of {template_name(tokenizer)} has no place for tools, so the model would never "
                "read of them. Leave them out, or serve a model whose template has one, such as Qwen2.5 or Llama 3.",
                param="tools",
            )
        return text
    except InvalidData as error:
        raise InvalidParameter(f"messages: {error.message}", param="messages") from error


def _check_variables(tokenizer: Any, conversation: Conversation, variables: Mapping[str, Any]) -> None:
    """Refuse variables that the template doesn't read, and those that are set by the request's other fields."""
    if not variables:
        return
    known = _variables(template_source(tokenizer, conversation))
    known -= {*inspect.signature(tokenizer.apply_chat_template).parameters, *tokenizer.special_tokens_map, "messages"}
    faults = [f"chat_template_kwargs.{name}" for name in variables if name not in known]
    if faults:
        raise InvalidParameter(
            f"{', '.join(faults)}: the chat template of {template_name(tokenizer)} has no such variable to set. "
            f"It has {', '.join(sorted(known)) or 'none'}.",
            param=faults[0],
        )


@lru_cache(maxsize=16)
def _variables(source: str) -> frozenset[str]:
    """Return the variables that a template reads from outside, without functions such as `namespace`.

    One that it sets itself isn't, unless it looks first whether that is defined: so defaults are written.
    """
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    tree = environment.parse(_GENERATION_TAG.sub("", source))
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    tests = (test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined"))
    own -= {node.name for node in tests if isinstance(node, nodes.Name)}
    functions = {*environment.globals, "raise_exception", "strftime_now"}
    return frozenset(find_undeclared_variables(tree) - own - functions)


def _render(
    tokenizer: Any,
    messages: Messages,
    tools: Tools | None,
    add_generation_prompt: bool,
    variables: Mapping[str, Any] | None,
) -> str:
    """Return the messages as text; calls that the template leaves out or refuses are written into their message's text."""

    def text_of(spelling: Messages) -> str:
        return render_messages(tokenizer, spelling, tools, add_generation_prompt, variables)

    has_calls = any(message.get("tool_calls") for message in messages)
    try:
        text = text_of(messages)
        others = (_with_other_calls(messages), _with_other_content(messages)) if has_calls else ()
        if all(text != text_of(other) for other in others if other):
            return text
    except InvalidData:
        if not has_calls:
            raise
    return text_of([_with_calls_in_text(message) for message in messages])


def _with_other_calls(messages: Messages) -> list[dict[str, Any]]:
    """Return the messages calling by another name: if that changes nothing in the text, the template leaves calls out."""
    return [
        {**message, "tool_calls": [_with_other_name(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else dict(message)
        for message in messages
    ]


def _with_other_name(call: Mapping[str, Any]) -> dict[str, Any]:
    return {**call, "function": {**call["function"], "name": _OTHER}}


def _with_other_content(messages: Messages) -> list[dict[str, Any]] | None:
    """Return the messages saying something else beside their calls (Llama's template leaves that out); None if none does."""
    if not any(message.get("tool_calls") and message.get("content") for message in messages):
        return None
    return [
        {**message, "content": _OTHER} if message.get("tool_calls") and message.get("content") else dict(message)
        for message in messages
    ]


def _with_calls_in_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message with its calls in the form that most models write, and that is read from their replies."""
    if not message.get("tool_calls"):
        return dict(message)
    blocks = [_written(call["function"]) for call in message["tool_calls"]]
    content = "\n".join([message["content"], *blocks] if message.get("content") else blocks)
    return {key: value for key, value in message.items() if key != "tool_calls"} | {"content": content}


def _written(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"
