"""The prompt of a request: a conversation as the model was trained to read it, and nothing of it left out silently.

Training refuses what a template can't render exactly (`mask.py`). A server must go on with what a model wrote before: calls
whose arguments are broken, and calls in front of a template that has no form for them.
"""

import json
from collections.abc import Mapping
from typing import Any

from mafunzo.compute.chat.template import Messages, Tools, render_messages, template_messages, template_name
from mafunzo.entities.conversation import Conversation
from mafunzo.errors import InvalidData, InvalidParameter

_OTHER = "xSENTINELx"


def render_prompt(tokenizer: Any, conversation: Conversation, add_generation_prompt: bool = True) -> str:
    """Return a request's conversation as text.

    Raises `InvalidParameter` where the template refuses it, or has no place for tools that were passed.
    """
    tools = [dict(tool) for tool in conversation.tools] or None
    try:
        messages = template_messages(tokenizer, conversation, takes_broken_arguments=True)
        text = _render(tokenizer, messages, tools, add_generation_prompt)
        if tools and text == _render(tokenizer, messages, None, add_generation_prompt):
            raise InvalidParameter(
                f"tools: the chat template of {template_name(tokenizer)} has no place for tools, so the model would never "
                "read of them. Leave them out, or serve a model whose template has one, such as Qwen2.5 or Llama 3.",
                param="tools",
            )
        return text
    except InvalidData as error:
        raise InvalidParameter(f"messages: {error.message}", param="messages") from error


def _render(tokenizer: Any, messages: Messages, tools: Tools | None, add_generation_prompt: bool) -> str:
    """Return the messages as text; calls that the template leaves out or refuses are written into their message's text."""
    has_calls = any(message.get("tool_calls") for message in messages)
    try:
        text = render_messages(tokenizer, messages, tools, add_generation_prompt)
        others = (_with_other_calls(messages), _with_other_content(messages)) if has_calls else ()
        if all(text != render_messages(tokenizer, other, tools, add_generation_prompt) for other in others if other):
            return text
    except InvalidData:
        if not has_calls:
            raise
    return render_messages(
        tokenizer, [_with_calls_in_text(message) for message in messages], tools, add_generation_prompt
    )


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
