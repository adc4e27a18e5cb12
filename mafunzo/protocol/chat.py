"""Chat completions in OpenAI's API: request validation (JSON to `ChatRequest`), and answers as JSON.

OpenAI's fields that aren't supported here are refused by name, unless their value is the default behaviour.
Further fields are vLLM's: `top_k`, `min_p`, `repetition_penalty`, `chat_template_kwargs` (variables of the chat template),
`ignore_eos` (go on after the model's own end), and `cache_salt` (share the prefix cache only with requests of the same salt).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from mafunzo.entities.conversation import ROLES, Conversation, message_from_dict
from mafunzo.errors import InvalidParameter
from mafunzo.protocol.field import Fields, Unsupported, shown
from mafunzo.protocol.structure import read_answer_schema, read_tool_choice
from mafunzo.protocol.tool_history import read_tool_calls

MAX_STOPS = 64
"""OpenAI's limit is 4, which programs written for other servers exceed."""
MAX_STOP_CHARACTERS = 1000
MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 128
MAX_BIAS = 100
MAX_SALT_CHARACTERS = 256
UNSUPPORTED: Unsupported = {
    "modalities": ((["text"],), "only text is supported."),
    "store": ((False,), "completions aren't stored."),
    **dict.fromkeys(
        ("audio", "prediction", "web_search_options", "reasoning_effort", "verbosity"), ((), "it isn't supported.")
    ),
    **dict.fromkeys(
        ("functions", "function_call"), ((), "it was replaced by tools and tool_choice, which are supported.")
    ),
}
NO_EFFECT = ("metadata", "user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")


@dataclass(frozen=True)
class Options:
    """Sampling options. max_tokens: None for as many as fit. top_k: 0 for all.
    logprobs: how many alternatives to report with each token's log-probability; None reports none at all.
    min_p: the least probability of a token, as a share of the most likely one's. logit_bias: by token id.
    The presence and frequency penalties count the answer's tokens, the repetition penalty (a factor) the prompt's as well.
    cache_salt: the prefix cache is shared among requests of the same one only."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    cache_salt: str = ""


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion request.

    template_variables: what the chat template gets beside messages and tools. answer_schema: the JSON schema of each answer
    that calls no tool. forced_tools: of these one must be called, if there are any.
    """

    conversation: Conversation
    options: Options
    is_stream: bool = False
    include_usage: bool = False
    may_call_tools: bool = False
    may_call_several: bool = True
    n: int = 1
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    answer_schema: Mapping[str, Any] | None = None
    forced_tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TokenLogprob:
    """A token in an answer: its text and bytes, its log-probability, and the most likely ones in its place."""

    token: str
    bytes: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True)
class Usage:
    """Counts of prompt and generated tokens. cached_tokens: those of the prompt that were in the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Heading:
    """Fields that all chunks of one answer share. created: seconds since 1970."""

    id: str
    created: int
    model: str


def chat_request_from_dict(body: object) -> ChatRequest:
    """Validate and parse a request; raises `InvalidParameter` with all faults."""
    fields = Fields(body)
    conversation = _read_conversation(fields)
    is_stream, include_usage = read_stream(fields)
    options = read_options(fields, _read_max_tokens(fields), _read_logprobs(fields))
    _refuse_what_is_not_honoured(fields)
    answer_schema, choice = read_answer_schema(fields), read_tool_choice(fields, conversation.tools)
    may_call_several = fields.boolean("parallel_tool_calls", True) and not choice.is_named
    n, variables = read_n(fields), fields.mapping("chat_template_kwargs")
    fields.check()
    tools = conversation.tools if choice.may_call else ()
    return ChatRequest(
        Conversation(conversation.messages, tools),
        options,
        is_stream,
        include_usage,
        may_call_tools=bool(tools),
        may_call_several=may_call_several,
        n=n,
        template_variables=variables,
        answer_schema=answer_schema,
        forced_tools=choice.forced,
    )


def conversation_from_request(body: object, prefix: str = "") -> Conversation:
    """Return the `messages` and `tools` of any request that has them; raises `InvalidParameter`."""
    fields = Fields(body, prefix)
    conversation = _read_conversation(fields)
    fields.ignore(*(body if isinstance(body, Mapping) else ()))
    fields.check()
    return conversation


def read_options(fields: Fields, max_tokens: int | None, logprobs: int | None) -> Options:
    """Read the fields that chat and text completions share."""
    top_k = fields.integer("top_k", -1)
    return Options(
        max_tokens=max_tokens,
        temperature=fields.number("temperature", 0, 2, 1.0),
        top_p=fields.number("top_p", 0, 1, 1.0),
        top_k=max(0, top_k or 0),
        seed=fields.integer("seed"),
        stop=fields.strings("stop", MAX_STOPS, MAX_STOP_CHARACTERS),
        ignore_eos=fields.boolean("ignore_eos"),
        logprobs=logprobs,
        min_p=fields.number("min_p", 0, 1, 0.0),
        presence_penalty=fields.number("presence_penalty", -2, 2, 0.0),
        frequency_penalty=fields.number("frequency_penalty", -2, 2, 0.0),
        repetition_penalty=fields.number("repetition_penalty", 0.01, 100, 1.0),
        logit_bias=_read_logit_bias(fields),
        cache_salt=_read_cache_salt(fields),
    )


def read_n(fields: Fields) -> int:
    """Read how many choices to answer with."""
    return fields.integer("n", 1, MAX_CHOICES) or 1


def _read_cache_salt(fields: Fields) -> str:
    value = fields.raw("cache_salt")
    if value is None:
        return ""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SALT_CHARACTERS:
        fields.fault(
            "cache_salt", f"cache_salt is {shown(value)}, expected text of 1 to {MAX_SALT_CHARACTERS} characters."
        )
        return ""
    return value


def _read_logit_bias(fields: Fields) -> dict[int, float]:
    biases = {}
    for key, value in fields.mapping("logit_bias").items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not re.fullmatch(r"[0-9]{1,9}", key):
            fields.fault("logit_bias", f"logit_bias has the key {shown(key)}, expected a token id.")
        elif not is_number or not -MAX_BIAS <= value <= MAX_BIAS:
            fields.fault("logit_bias", f"logit_bias.{key} is {shown(value)}, expected {-MAX_BIAS} to {MAX_BIAS}.")
        else:
            biases[int(key)] = float(value)
    return biases


def read_stream(fields: Fields) -> tuple[bool, bool]:
    """Read `stream`, and `include_usage` of `stream_options`."""
    is_stream = fields.boolean("stream")
    stream_options = fields.raw("stream_options")
    if stream_options is None:
        return is_stream, False
    if not is_stream:
        fields.fault("stream_options", "stream_options is only allowed when stream is true.")
    try:
        options = Fields(stream_options, "stream_options")
        include_usage = options.boolean("include_usage")
        options.ignore("include_obfuscation")
        options.check()
    except InvalidParameter as error:
        fields.fault("stream_options", error.message)
        return is_stream, False
    return is_stream, include_usage


def chat_choice(
    index: int,
    text: str,
    tool_calls: Sequence[Mapping[str, Any]],
    finish_reason: str,
    logprobs: Sequence[TokenLogprob] | None = None,
) -> dict[str, Any]:
    """Return one choice of a whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if tool_calls:
        message |= {"content": text or None, "tool_calls": [dict(call) for call in tool_calls]}
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(logprobs),
        "finish_reason": "tool_calls" if tool_calls else finish_reason,
    }


def chat_completion(heading: Heading, choices: Sequence[Mapping[str, Any]], usage: Usage) -> dict[str, Any]:
    """Return a whole answer."""
    return answer_body(heading, "chat.completion", choices, usage)


def chat_chunk(
    heading: Heading,
    index: int,
    delta: Mapping[str, Any],
    finish_reason: str | None = None,
    logprobs: Sequence[TokenLogprob] | None = None,
    has_usage: bool = False,
) -> dict[str, Any]:
    """Return a chunk of a streamed answer: what is new in the message of one choice."""
    choice = {"index": index, "delta": delta, "logprobs": _logprobs(logprobs), "finish_reason": finish_reason}
    return answer_body(heading, "chat.completion.chunk", [choice], has_usage=has_usage)


def answer_body(
    heading: Heading,
    kind: str,
    choices: Sequence[Mapping[str, Any]],
    usage: Usage | None = None,
    has_usage: bool = False,
) -> dict[str, Any]:
    """Return any answer or chunk, chat's or of a text completion; `kind` is OpenAI's name of what it is.

    `has_usage`: there is a field for it also where it isn't known yet, as in a stream that ends with it.
    """
    body: dict[str, Any] = {
        "id": heading.id,
        "object": kind,
        "created": heading.created,
        "model": heading.model,
        "system_fingerprint": None,
        "choices": choices,
    }
    if usage is not None:
        body["usage"] = _usage(usage)
    elif has_usage:
        body["usage"] = None
    return body


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _read_conversation(fields: Fields) -> Conversation:
    messages, tools = fields.raw("messages"), fields.raw("tools")
    if not isinstance(messages, list) or not messages:
        fields.fault("messages", "messages must be a list of at least one message.")
        messages = []
    valid_messages = []
    for i, message in enumerate(messages):
        body = _read_message(fields, f"messages[{i}]", message)
        if body is not None:
            valid_messages.append(message_from_dict(body))
    return Conversation(tuple(valid_messages), _read_tools(fields, tools))


def _read_message(fields: Fields, at: str, message: object) -> dict[str, Any] | None:
    """Return a message with its content as one text, or None after recording its fault."""
    if not isinstance(message, Mapping):
        fields.fault(at, f"{at} must be a JSON object.")
        return None
    if message.get("role") not in ROLES:
        fields.fault(f"{at}.role", f"{at}.role is {shown(message.get('role'))}, expected one of {', '.join(ROLES)}.")
        return None
    for name in ("name", "tool_call_id"):
        if not isinstance(message.get(name), str | None):
            fields.fault(f"{at}.{name}", f"{at}.{name} is {shown(message[name])}, expected a string.")
    if message.get("function_call") is not None:
        fields.fault(f"{at}.function_call", f"{at}.function_call was replaced by tool_calls, which are supported.")
    calls = read_tool_calls(fields, at, message)
    content = message.get("content")
    if isinstance(content, list):
        content = _read_parts(fields, at, content)
    elif content is None and not message.get("tool_calls"):
        fields.fault(f"{at}.content", f"{at}.content is missing: it may be null only beside tool_calls.")
    elif content is not None and not isinstance(content, str):
        fields.fault(f"{at}.content", f"{at}.content must be a string or a list of text parts.")
    return {**message, "content": content, "tool_calls": calls}


def _read_parts(fields: Fields, at: str, parts: Sequence[object]) -> str:
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else part
        if isinstance(part, Mapping) and kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            fields.fault(
                f"{at}.content", f"{at}.content has a part of type {shown(kind)}: only text parts are supported."
            )
            break
    return "".join(texts)


def _read_tools(fields: Fields, tools: object) -> tuple[Mapping[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        fields.fault("tools", "tools must be a list.")
        return ()
    return tuple(tool for i, tool in enumerate(tools) if _is_tool(fields, f"tools[{i}]", tool))


def _is_tool(fields: Fields, at: str, tool: object) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether this is a function that may be called; records its faults otherwise."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or not isinstance(function, Mapping) or tool.get("type", "function") != "function":
        fields.fault(at, f"{at} must be a function with a name, of type 'function'.")
        return False
    name, parameters, description = (function.get(key) for key in ("name", "parameters", "description"))
    if not isinstance(name, str) or not name.strip():
        fields.fault(at, f"{at} must be a function with a name.")
    if not isinstance(parameters, Mapping | None):
        fields.fault(at, f"{at}.function.parameters is {shown(parameters)}, expected a JSON schema.")
    if not isinstance(description, str | None):
        fields.fault(at, f"{at}.function.description is {shown(description)}, expected a string.")
    return True


def _read_max_tokens(fields: Fields) -> int | None:
    old, new = fields.integer("max_tokens", 1), fields.integer("max_completion_tokens", 1)
    if old is not None and new is not None:
        fields.fault("max_tokens", "max_tokens and max_completion_tokens can't be given together.")
    return new if old is None else old


def _read_logprobs(fields: Fields) -> int | None:
    has_logprobs, top = fields.boolean("logprobs"), fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top is not None and not has_logprobs:
        fields.fault("top_logprobs", "top_logprobs is only allowed when logprobs is true.")
    return (top or 0) if has_logprobs else None


def _refuse_what_is_not_honoured(fields: Fields) -> None:
    fields.ignore("model", *NO_EFFECT)  # the router has read which model
    fields.refuse(UNSUPPORTED)


def _logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    return {
        "content": [_token(token) | {"top_logprobs": [_token(top) for top in token.top]} for token in tokens],
        "refusal": None,
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}
