"""The chat formats of rows, detected by their keys and converted to OpenAI's messages.

| format | keys |
|---|---|
| messages | `messages` of `{role, content}`, and `tools` (OpenAI, Azure, ultrachat) |
| sharegpt | `conversations` of `{from, value}`, and `system`, `tools` |
| alpaca | `instruction`, `input`, `output`, and `system`, `history` |
| prompt_completion | `prompt` and `completion`, each a text or a list of messages (also `response`, `question`/`answer`, ...) |
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
)
MESSAGE_KEYS = ("messages", "conversations", "conversation")
ROLE_NAMES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "tool_call",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function": "tool",
}
"""Other tools' names of roles. `tool_call` is a turn of the assistant whose text is the call as JSON."""


@dataclass(frozen=True)
class Shape:
    """A row in OpenAI's form, its messages not checked yet; `fault` is set where its keys fit no format."""

    format: str
    messages: list[Any]
    tools: Any = None
    fault: str = ""


def shape(body: Mapping[str, Any]) -> Shape:
    """Detect a row's format, and return its messages and tools."""
    body = {key.strip(): value for key, value in body.items() if value is not None}
    tools = _parsed(body.get("tools", body.get("functions")))
    for key in MESSAGE_KEYS:
        if key in body:
            return _from_messages(key, _parsed(body[key]), tools, body)
    if "instruction" in body and "output" in body:
        return _from_alpaca(body, tools)
    for prompt, completion in PAIRS:
        if prompt in body and completion in body:
            return _from_pair(_parsed(body[prompt]), _parsed(body[completion]), tools, body)
    return Shape("", [], fault=_no_format(body))


def _from_messages(key: str, messages: Any, tools: Any, body: Mapping[str, Any]) -> Shape:
    if not isinstance(messages, list):
        return Shape("", [], fault=f"'{key}' is {_kind(messages)}, expected a list of messages")
    is_sharegpt = any(isinstance(message, Mapping) and "from" in message for message in messages)
    turns = [turn for message in messages if not _is_empty_system(turn := _message(message))]
    return Shape("sharegpt" if is_sharegpt else "messages", _system(body, turns) + turns, tools)


def _from_alpaca(body: Mapping[str, Any], tools: Any) -> Shape:
    history = _parsed(body.get("history")) or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        return Shape("alpaca", [], fault="'history' isn't a list of [user's text, assistant's text]")
    turns: list[Any] = []
    for question, answer in history:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    parts = [part for part in (body["instruction"], body.get("input")) if part not in (None, "")]
    prompt = "\n".join(parts) if parts and all(isinstance(part, str) for part in parts) else (parts or [""])[0]
    turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": body["output"]}]
    return Shape("alpaca", _system(body, turns) + turns, tools)


def _from_pair(prompt: Any, completion: Any, tools: Any, body: Mapping[str, Any]) -> Shape:
    prompt_turns = [_message(m) for m in prompt] if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    answer_turns = (
        [_message(m) for m in completion]
        if isinstance(completion, list)
        else [{"role": "assistant", "content": completion}]
    )
    return Shape("prompt_completion", _system(body, prompt_turns) + prompt_turns + answer_turns, tools)


def _system(body: Mapping[str, Any], messages: list[Any]) -> list[Any]:
    has_system = any(isinstance(message, Mapping) and message.get("role") == "system" for message in messages)
    system = body.get("system") or body.get("system_prompt")
    return [{"role": "system", "content": system}] if system and not has_system else []


def _is_empty_system(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "system" and message.get("content") == ""


def _message(message: Any) -> Any:
    """Return a message with OpenAI's keys and roles; anything but an object stays, for the check to report."""
    if not isinstance(message, Mapping):
        return message
    body = {key: value for key, value in message.items() if value is not None}
    if "from" in body:
        body["role"] = body.pop("from")
        if "value" in body:
            body["content"] = body.pop("value")
    if isinstance(body.get("role"), str):
        role = body["role"].strip().lower()
        body["role"] = ROLE_NAMES.get(role, role)
    if body.get("role") == "tool_call":
        body = _call_as_turn(body)
    if "function_call" in body:
        body["tool_calls"] = [{"type": "function", "function": body.pop("function_call")}]
    return body


def _call_as_turn(body: dict[str, Any]) -> dict[str, Any]:
    calls = _parsed(body.get("content"))
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        return body
    functions = [{"type": "function", "function": dict(call)} for call in calls]
    return {"role": "assistant", "tool_calls": functions}


def _parsed(value: Any) -> Any:
    """Parse the list or object in a cell's text (JSON, or a Python literal); return other values unchanged."""
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value


def _no_format(body: Mapping[str, Any]) -> str:
    keys = ", ".join(map(str, body)) or "nothing"
    return (
        f"has no 'messages' (it has: {keys}). Known are messages; conversations (ShareGPT); instruction and output "
        "(Alpaca); prompt and completion"
    )


def _kind(value: Any) -> str:
    names = {
        str: "a text that isn't JSON",
        dict: "an object",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null" if value is None else type(value).__name__)
