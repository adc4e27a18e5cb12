"""Chat template: messages to text by the model's own Jinja source, the one place where a conversation is rendered."""

from collections.abc import Mapping, Sequence
from typing import Any

from mafunzo.entities.conversation import TRAINING_FIELDS, Conversation, Message, call_arguments
from mafunzo.errors import InvalidData


def render(tokenizer: Any, conversation: Conversation, add_generation_prompt: bool = False) -> str:
    """Return the conversation as text, ending on the generation prompt (an assistant's header) with that option.

    Raises `InvalidData` with the template's own message where it refuses the conversation.
    """
    tools = [dict(tool) for tool in conversation.tools] or None
    return render_messages(tokenizer, template_messages(tokenizer, conversation), tools, add_generation_prompt)


def render_ids(tokenizer: Any, conversation: Conversation, add_generation_prompt: bool = False) -> list[int]:
    """Return the conversation as token ids. BOS and EOS come from the template only; the tokenizer adds no second one."""
    text = render(tokenizer, conversation, add_generation_prompt)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render_messages(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool = False,
) -> str:
    """Return messages in the template's form (see `template_messages`) as text."""
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InvalidData(f"the chat template of {template_name(tokenizer)} refuses it: {error}") from error


def template_messages(tokenizer: Any, conversation: Conversation) -> list[dict[str, Any]]:
    """Return the messages as chat templates expect them.

    The arguments of a tool call become an object, `{}` where there are none. The role `developer`, OpenAI's
    newer name of `system`, becomes `system` for a template that doesn't know it.
    """
    source = str(tokenizer.get_chat_template(tools=[{}] if conversation.tools else None))
    return [_template_message(message, "developer" in source) for message in conversation.messages]


def template_name(tokenizer: Any) -> str:
    """Return the template's name in errors: the model's folder."""
    return str(tokenizer.name_or_path or "this tokenizer").rstrip("/").rsplit("/", 1)[-1]


def _template_message(message: Message, knows_developer: bool) -> dict[str, Any]:
    body = {key: value for key, value in message.as_dict().items() if key not in TRAINING_FIELDS}
    if message.role == "developer" and not knows_developer:
        body["role"] = "system"
    if message.tool_calls:
        body["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    return body


def _template_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    try:
        function["arguments"] = call_arguments(function.get("arguments"))
    except ValueError as error:
        raise InvalidData(f"the arguments of the tool call '{function.get('name')}' aren't JSON: {error}") from error
    return {**call, "function": function}
