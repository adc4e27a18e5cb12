"""Requests of OpenAI's Responses API: checked field by field, and as the chat completion that answers them.

OpenAI's fields that aren't supported here are refused by name, unless their value says what happens anyway.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mafunzo.protocol.field import Fields, Unsupported, shown
from mafunzo.protocol.response_item import Item, NewId, chat_messages, random_id, read_items, require_calls

MAX_METADATA = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
_NO_REASONING: Collection[Any] = ({}, {"effort": None}, {"summary": None}, {"effort": None, "summary": None})
UNSUPPORTED: Unsupported = {
    "background": ((False,), "an answer is made while its client waits for it, or as a stream."),
    "conversation": ((), "conversations aren't stored: go on with previous_response_id."),
    "include": (([],), "there is nothing more to include."),
    "prompt": ((), "prompts aren't stored: send instructions and input."),
    "reasoning": (_NO_REASONING, "it isn't supported."),
    "top_logprobs": ((0,), "log-probabilities are told by chat completions."),
    "truncation": (("disabled",), "a conversation that doesn't fit the model's context is refused, not cut."),
    **dict.fromkeys(
        (
            "access_programs",
            "background_options",
            "context_management",
            "image",
            "moderation",
            "prompt_cache_options",
        ),
        ((), "it isn't supported."),
    ),
}
NO_EFFECT = ("user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
UNSUPPORTED_OF_TOOLS: Unsupported = {
    "allowed_callers": ((["direct"],), "only the model calls functions."),
    "async": ((False,), "it isn't supported."),
    "defer_loading": ((False,), "there is no search of tools."),
    "output_schema": ((), "it isn't supported."),
}


@dataclass(frozen=True)
class ResponseRequest:
    """A request for a response.

    items: of its own input. chat_fields: of the chat completion beside model and messages. settings: the fields of the response
    that repeat the request.
    """

    model: str
    items: tuple[Item, ...]
    instructions: str | None
    previous_response_id: str | None
    is_stream: bool
    is_stored: bool
    chat_fields: Mapping[str, Any]
    settings: Mapping[str, Any]


def response_request_from_dict(body: object, new_id: NewId = random_id) -> ResponseRequest:
    """Validate and parse a request; raises `InvalidParameter` with all faults. new_id: for items that have no id."""
    fields = Fields(body)
    model, items = fields.required_text("model"), read_items(fields, new_id)
    instructions, previous_id = fields.text("instructions"), fields.text("previous_response_id")
    sampling = {"temperature": fields.number("temperature", 0, 2, 1.0), "top_p": fields.number("top_p", 0, 1, 1.0)}
    most_tokens = fields.integer("max_output_tokens", 1)
    tools, text_format = _read_tools(fields), _read_text_format(fields)
    choice, may_call_several = _read_tool_choice(fields, tools), fields.boolean("parallel_tool_calls", True)
    is_stream, is_stored = _read_stream(fields), fields.boolean("store", True)
    settings = {
        "instructions": instructions,
        "max_output_tokens": most_tokens,
        "max_tool_calls": fields.integer("max_tool_calls", 1),
        "metadata": _read_metadata(fields),
        "model": model,
        "parallel_tool_calls": may_call_several,
        "previous_response_id": previous_id,
        "store": is_stored,
        "text": {"format": text_format, "verbosity": "medium"},
        "tool_choice": choice,
        "tools": tools,
        **sampling,
    }
    fields.refuse(UNSUPPORTED)
    fields.ignore(*NO_EFFECT)
    fields.check()
    chat_fields: dict[str, Any] = {**sampling, **_chat_tools(tools, choice, may_call_several)}
    chat_fields |= {} if most_tokens is None else {"max_completion_tokens": most_tokens}
    chat_fields |= {} if text_format["type"] == "text" else {"response_format": _chat_format(text_format)}
    chat_fields |= {"stream": True, "stream_options": {"include_usage": True}} if is_stream else {}
    return ResponseRequest(model, items, instructions, previous_id, is_stream, is_stored, chat_fields, settings)


def chat_body(request: ResponseRequest, history: Sequence[Item] = ()) -> dict[str, Any]:
    """Return the chat completion that answers a request; `history` are the items before its own.

    Raises `InvalidParameter` for the output of a call that nobody made.
    """
    items = [*history, *request.items]
    require_calls(items)
    head = [{"role": "system", "content": request.instructions}] if request.instructions else []
    return {"model": request.model, "messages": [*head, *chat_messages(items)], **request.chat_fields}


def _read_stream(fields: Fields) -> bool:
    is_stream, options = fields.boolean("stream"), fields.raw("stream_options")
    if options is not None and not is_stream:
        fields.fault("stream_options", "stream_options is only allowed when stream is true.")
    elif options is not None:
        padding: Unsupported = {"include_obfuscation": ((False,), "the pieces of a stream aren't padded.")}
        fields.within("stream_options", options, lambda inner: inner.refuse(padding), None)
    return is_stream


def _read_metadata(fields: Fields) -> Mapping[str, str]:
    metadata = fields.mapping("metadata")
    if len(metadata) > MAX_METADATA:
        fields.fault("metadata", f"metadata has {len(metadata)} entries, expected at most {MAX_METADATA}.")
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY:
            fields.fault("metadata", f"metadata has the key {shown(key)}, longer than {MAX_METADATA_KEY} characters.")
        if not isinstance(value, str) or len(value) > MAX_METADATA_VALUE:
            expected = f"a string of at most {MAX_METADATA_VALUE} characters"
            fields.fault("metadata", f"metadata.{key} is {shown(value)}, expected {expected}.")
    return metadata


def _read_tools(fields: Fields) -> list[dict[str, Any]]:
    tools = fields.raw("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        fields.fault("tools", "tools must be a list.")
        return []
    read = (_read_tool(fields, f"tools[{i}]", tool) for i, tool in enumerate(tools))
    return [tool for tool in read if tool is not None]


def _read_tool(fields: Fields, at: str, tool: object) -> dict[str, Any] | None:
    kind = tool.get("type") if isinstance(tool, Mapping) else tool
    if kind != "function":
        name = f"{at}.type" if isinstance(tool, Mapping) else at
        fields.fault(name, f"{name} is {shown(kind)}, expected 'function': there are no built-in tools.")
        return None
    return fields.within(at, tool, _read_function, None)


def _read_function(tool: Fields) -> dict[str, Any]:
    tool.ignore("type")
    tool.refuse(UNSUPPORTED_OF_TOOLS)
    parameters, strict = tool.raw("parameters"), tool.raw("strict")
    if not isinstance(parameters, Mapping | None):
        tool.wrong("parameters", parameters, "a JSON schema")
    return {
        "type": "function",
        "name": tool.required_text("name"),
        "description": tool.text("description"),
        "parameters": parameters,
        "strict": None if strict is None else tool.boolean("strict"),
    }


def _read_tool_choice(fields: Fields, tools: Sequence[Mapping[str, Any]]) -> str | dict[str, Any]:
    choice = fields.raw("tool_choice")
    if choice in (None, "auto", "none"):
        return choice or "auto"
    if choice == "required":
        if not tools:
            fields.fault("tool_choice", "tool_choice is 'required', but there are no tools to call.")
        return "required"
    name = choice.get("name") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    if not isinstance(name, str):
        expected = "'auto', 'none', 'required', or the name of a function as {'type': 'function', 'name': ...}"
        fields.wrong("tool_choice", choice, expected)
        return "auto"
    fields.within("tool_choice", choice, lambda inner: inner.ignore("type", "name"), None)
    if name not in [tool["name"] for tool in tools]:
        fields.fault("tool_choice", f"tool_choice names the function {shown(name)}, which isn't among the tools.")
    return {"type": "function", "name": name}


def _chat_tools(
    tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any], may_call_several: bool
) -> dict[str, Any]:
    """Return the fields of a chat completion that concern tools, none where there are no tools."""
    if not tools:
        return {}
    functions = [{key: value for key, value in tool.items() if key != "type" and value is not None} for tool in tools]
    return {
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": choice
        if isinstance(choice, str)
        else {"type": "function", "function": {"name": choice["name"]}},
        "parallel_tool_calls": may_call_several,
    }


def _read_text_format(fields: Fields) -> dict[str, Any]:
    plain = {"type": "text"}
    body = fields.raw("text")
    return plain if body is None else fields.within("text", body, _read_text, plain)


def _read_text(text: Fields) -> dict[str, Any]:
    text.refuse({"verbosity": (("medium",), "it isn't supported.")})
    body = text.raw("format")
    kind = body.get("type") if isinstance(body, Mapping) else body
    if body is None:
        return {"type": "text"}
    if kind in ("text", "json_object"):
        text.within("format", body, lambda inner: inner.ignore("type"), None)
        return {"type": kind}
    if kind == "json_schema":
        return text.within("format", body, _read_schema, {"type": "text"})
    text.wrong("format", body, "the type 'text', 'json_object' or 'json_schema'")
    return {"type": "text"}


def _read_schema(body: Fields) -> dict[str, Any]:
    body.ignore("type")
    schema, strict = body.raw("schema"), body.raw("strict")
    if not isinstance(schema, Mapping):
        body.wrong("schema", schema, "a JSON schema")
    return {
        "type": "json_schema",
        "name": body.required_text("name"),
        "description": body.text("description"),
        "schema": schema,
        "strict": None if strict is None else body.boolean("strict"),
    }


def _chat_format(text_format: Mapping[str, Any]) -> dict[str, Any]:
    if text_format["type"] != "json_schema":
        return dict(text_format)
    schema = {key: value for key, value in text_format.items() if key != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}
