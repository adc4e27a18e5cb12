"""Chat template: messages to text by the model's own Jinja source, the one place where a conversation is rendered."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mafunzo.entities.conversation import TRAINING_FIELDS, Conversation, Message, call_arguments
from mafunzo.errors import InvalidData

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


def render(tokenizer: Any, conversation: Conversation, add_generation_prompt: bool = False) -> str:
    """Return the conversation as text, ending on the generation prompt (an assistant's header) with that option.

    Raises `InvalidData` with the template's own message where it refuses the conversation.
    """
    tools = [dict(tool) for tool in conversation.tools] or None
    return render_messages(tokenizer, template_messages(tokenizer, conversation), tools, add_generation_prompt)


def render_ids(tokenizer: Any, conversation: Conversation, add_generation_prompt: bool = False) -> list[int]:
    """Return the conversation as token ids. BOS and EOS come from the template only; the tokenizer adds no second one."""
    return text_ids(tokenizer, render(tokenizer, conversation, add_generation_prompt))


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return a rendered text as token ids; nothing is added to it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render_messages(
    tokenizer: Any,
    messages: Messages,
    tools: Tools | None,
    add_generation_prompt: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Return messages in the template's form (see `template_messages`) as text.

    variables: further ones for the template. Where it refuses a message that calls tools, other spellings are tried.
    """
    from jinja2 import TemplateError

    refusal: Exception | None = None
    for spelling in _spellings(messages):
        try:
            if tools is None and not variables and (template := _plain_template(tokenizer, spelling)) is not None:
                return str(
                    template.render(
                        messages=spelling,
                        tools=None,
                        documents=None,
                        add_generation_prompt=add_generation_prompt,
                        **tokenizer.special_tokens_map,
                    )
                )
            return str(
                tokenizer.apply_chat_template(
                    spelling,
                    tools=tools,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **(variables or {}),
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as error:
            refusal = refusal or error
    raise InvalidData(f"the chat template of {template_name(tokenizer)} refuses it: {refusal}") from refusal


def _plain_template(tokenizer: Any, messages: Messages) -> Any:
    """Return the compiled template of messages that have a role and a text; None for others, and where it isn't known.

    `apply_chat_template` renders such messages with it as they are, once it has copied and looked through each: that takes
    longer than the template. A tokenizer with a method of its own is asked.
    """
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import chat_template_utils

    method = getattr(tokenizer.apply_chat_template, "__func__", None)
    if method is not PreTrainedTokenizerBase.apply_chat_template:
        return None

    compile_template = getattr(chat_template_utils, "_compile_jinja_template", None)
    if compile_template is None or not messages or not all(map(_is_plain, messages)):
        return None
    if not all(type(token) is str for token in tokenizer.special_tokens_map.values()):
        return None
    return compile_template(tokenizer.get_chat_template())


def _is_plain(message: Mapping[str, Any]) -> bool:
    return len(message) == 2 and type(message.get("content")) is str and type(message.get("role")) is str


def template_messages(
    tokenizer: Any, conversation: Conversation, takes_broken_arguments: bool = False
) -> list[dict[str, Any]]:
    """Return the messages as chat templates expect them.

    The arguments of a tool call become an object (OpenAI writes them as a JSON string), `{}` where there are none; such that
    aren't JSON raise `InvalidData`, or stay a string with `takes_broken_arguments`. The role `developer`, OpenAI's newer
    name of `system`, becomes `system` for a template that doesn't know it.
    """
    knows_developer = "developer" in template_source(tokenizer, conversation)
    return [_template_message(message, knows_developer, takes_broken_arguments) for message in conversation.messages]


def template_source(tokenizer: Any, conversation: Conversation) -> str:
    """Return the template that renders a conversation: a model may have one of its own for tools."""
    return str(tokenizer.get_chat_template(tools=[{}] if conversation.tools else None))


def template_name(tokenizer: Any) -> str:
    """Return the template's name in errors: the model's folder."""
    return str(tokenizer.name_or_path or "this tokenizer").rstrip("/").rsplit("/", 1)[-1]


def _spellings(messages: Messages) -> Iterator[list[dict[str, Any]]]:
    """Yield the messages as they are, then with their calls in other spellings.

    Templates differ in what stands beside a call (no content, or an empty one that they can concatenate), and in whether
    its arguments are an object or the JSON of one.
    """
    yield [dict(message) for message in messages]
    if any(message.get("tool_calls") for message in messages):
        yield [_with_content(message) for message in messages]
        yield [_with_written_arguments(message) for message in messages]
        yield [_with_written_arguments(_with_content(message)) for message in messages]


def _with_content(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": "", **message} if message.get("tool_calls") else dict(message)


def _with_written_arguments(message: Mapping[str, Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return dict(message)
    return {**message, "tool_calls": [_with_written_argument(call) for call in message["tool_calls"]]}


def _with_written_argument(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    if isinstance(function.get("arguments"), Mapping):
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    elif "arguments" in function:  # broken ones: no JSON to write, so the object that holds them
        function["arguments"] = {"arguments": function["arguments"]}
    return {**call, "function": function}


def _template_message(message: Message, knows_developer: bool, takes_broken_arguments: bool) -> dict[str, Any]:
    body = {key: value for key, value in message.as_dict().items() if key not in TRAINING_FIELDS}
    if message.role == "developer" and not knows_developer:
        body["role"] = "system"
    if message.tool_calls:
        body["tool_calls"] = [_template_call(call, takes_broken_arguments) for call in message.tool_calls]
    return body


def _template_call(call: Mapping[str, Any], takes_broken_arguments: bool) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    try:
        function["arguments"] = call_arguments(function.get("arguments"))
    except ValueError as error:
        if not takes_broken_arguments:
            raise InvalidData(
                f"the arguments of the tool call '{function.get('name')}' aren't JSON: {error}"
            ) from error
    return {**call, "function": function}
