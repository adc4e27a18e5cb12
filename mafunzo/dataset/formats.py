"""The chat formats of rows, detected by their columns and converted to OpenAI's messages.

| format | columns |
|---|---|
| messages | `messages` of `{role, content}`, and `tools` (OpenAI, Azure, ultrachat) |
| sharegpt | `conversations` of `{from, value}`, and `system`, `tools` (Hermes' calls as text, too) |
| alpaca | `instruction`; `input` or `context`; `output` or `response` (Dolly) |
| prompt_completion | `prompt` and `completion`, texts or lists of messages (also OpenOrca's `question`, `response`, ...) |

Beside the last two may stand `system` (or `system_prompt`), `history`, `tools`, `input` and `context`. Capitals, spaces and
hyphens in names of columns don't count. A column that isn't read is noted.

A text stays a text: only columns that must hold a list or an object are parsed from JSON (csv files have texts only).
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from mafunzo.entities.conversation import TRAINING_FIELDS

PROMPTS = ("instruction", "prompt", "question", "query", "input")
ANSWERS = ("output", "completion", "response", "answer")
PAIRS = (
    ("instruction", "output"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    *product(PROMPTS, ANSWERS),
)
"""The columns of question and answer; where a row has several pairs, the first counts."""
CONTEXTS = ("input", "context")
"""Columns that belong to the question: they are written below it, as Alpaca's `input`."""
SYSTEMS = ("system", "system_prompt", "system_message")
MESSAGE_KEYS = ("messages", "conversations", "conversation")
TOOLS = ("tools", "functions")
_COLUMNS = frozenset((*PROMPTS, *ANSWERS, *CONTEXTS, *SYSTEMS, *MESSAGE_KEYS, *TOOLS, "history"))
_MESSAGE_FIELDS = frozenset(("role", "content", "from", "value", "tool_calls", "tool_call_id", "name", "function_call"))
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
PLAIN_ROLES = frozenset(("system", "user", "assistant"))
_LIST_OF_MESSAGES = re.compile(r"\s*\[\s*\{.*['\"](role|from)['\"]", re.DOTALL)
_TOOL_CALL = re.compile(r"\s*<tool_call>(.*?)</tool_call>\s*", re.DOTALL)
_TOOL_RESPONSE = re.compile(r"\s*<tool_response>(.*?)</tool_response>\s*", re.DOTALL)


@dataclass(frozen=True)
class Shape:
    """A row in OpenAI's form, its messages not checked yet; `fault` is set where its columns fit no format.

    columns: those that were read. notes: what is unusual but usable.
    """

    format: str
    messages: list[Any]
    tools: Any = None
    fault: str = ""
    columns: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def shape(body: Mapping[str, Any]) -> Shape:
    """Detect a row's format, and return its messages and tools."""
    names = _names(body)
    columns = {name: body[key] for name, key in names.items() if not _is_null(body[key])}
    parts = _with_tools(_shape(columns, [name for name in names if name not in columns]), columns)
    if parts.fault:
        return parts
    excluded = [name for name in TRAINING_FIELDS if name in columns and not _is_trained(name, columns[name])]
    if excluded:
        value = json.dumps(columns[excluded[0]])
        return replace(
            parts, fault=f"has {excluded[0]} {value} for the whole row, so there is nothing to learn from it"
        )
    unread = [name for name, value in columns.items() if name not in parts.columns and value not in ("", [], {})]
    if not unread:
        return parts
    notes = [f"has a column '{names[name].strip()}', which isn't read" for name in unread]
    return replace(parts, notes=(*parts.notes, *notes))


def question(body: Mapping[str, Any]) -> Shape:
    """Return what a row asks, whatever it was written for: its messages without the turns of the assistant at their end.

    Beside all formats there may be a question alone: messages that end on it, a column of `PROMPTS` without an answer, or
    `input_string`, a text or a list of messages, by itself or in `input_data`.
    """
    rows = {key: value for key, value in body.items() if key not in TRAINING_FIELDS}
    wrapped = _parsed(rows.get("input_data"))
    rows = dict(wrapped) if isinstance(wrapped, Mapping) else rows
    if rows.get("parameters"):
        return Shape("", [], fault="has parameters of its own, which aren't read. Give them for the whole file")
    if "input_string" in rows:
        return _asked(_from_input_string(_parsed(rows["input_string"])))
    columns = {name: rows[key] for name, key in _names(rows).items() if not _is_null(rows[key])}
    is_alone = not any(name in columns for name in (*MESSAGE_KEYS, *ANSWERS)) and any(
        name in columns for name in PROMPTS
    )
    parts = shape(rows | {"completion": [_assistant("")]} if is_alone else rows)
    if not parts.format and not any(name in columns for name in MESSAGE_KEYS):
        names = ", ".join(columns) or "nothing"
        known = "messages; conversations (ShareGPT); prompt, instruction, question, query or input; input_string"
        return Shape("", [], fault=f"asks nothing (it has: {names}). Known are {known}")
    return _asked(parts)


def _from_input_string(value: Any) -> Shape:
    if isinstance(value, str):
        return Shape("input_string", [_user(value)], columns=frozenset(("input_string",)))
    if not _are_messages(value):
        fault = "'input_string' is neither a text nor a list of messages. One row asks one question"
        return Shape("", [], fault=fault)
    turns, notes = _turns(value)
    return Shape("input_string", turns, columns=frozenset(("input_string",)), notes=tuple(notes))


def _asked(parts: Shape) -> Shape:
    """Return a row's parts without the answers at their end, which it may have been written with."""
    messages = list(parts.messages)
    while messages and isinstance(messages[-1], Mapping) and messages[-1].get("role") == "assistant":
        messages.pop()
    fault = parts.fault or ("" if messages else "has no question: there is nothing before the assistant's answer")
    return replace(parts, messages=messages, fault=fault)


def _is_trained(field: str, value: Any) -> bool:
    """Return whether a column of that name leaves its row in training; other columns of that name mean something else."""
    if isinstance(value, str):  # a cell of a csv file
        return value.strip().lower() not in (("0", "0.0") if field == "weight" else ("false",))
    return not (value is False or (field == "weight" and value == 0))


def _names(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of each column by the one that it is known by here: `System Prompt` is `system_prompt`."""
    exact = {key.strip() for key in body}
    names: dict[str, str] = {}
    for key in body:
        name = re.sub(r"[\s-]+", "_", key.strip().lower())
        is_known = name in _COLUMNS and name not in exact | names.keys()
        names[name if is_known else key.strip()] = key
    return names


def _shape(columns: Mapping[str, Any], empty: list[str]) -> Shape:
    lists = {key: _parsed(columns[key]) for key in MESSAGE_KEYS if key in columns}
    for key, messages in lists.items():
        if isinstance(messages, list):
            return _from_messages(key, messages, columns)
    for prompt, answer in PAIRS:
        if prompt in columns and answer in columns:
            return _from_pair(prompt, answer, columns)
    for key, value in lists.items():
        return Shape("", [], fault=f"'{key}' is {_kind(value)}, expected a list of messages")
    return Shape("", [], fault=_no_format(columns, empty))


def _with_tools(parts: Shape, columns: Mapping[str, Any]) -> Shape:
    """Add the tool definitions, unless the system message has them as text: then the column would write them twice."""
    name = next((name for name in TOOLS if columns.get(name) not in (None, "")), "")
    texts = [message.get("content") for message in parts.messages[:1] if isinstance(message, Mapping)]
    if not name or any(isinstance(text, str) and "<tools>" in text for text in texts):
        return parts
    return replace(parts, tools=_parsed(columns[name]), columns=parts.columns | {name})


def _from_messages(key: str, messages: list[Any], columns: Mapping[str, Any]) -> Shape:
    is_sharegpt = any(isinstance(message, Mapping) and "from" in message for message in messages)
    turns, notes = _turns(messages)
    turns = [turn for turn in turns if not _is_empty_system(turn)]
    system, system_columns = _system(columns, turns)
    return Shape(
        "sharegpt" if is_sharegpt else "messages", system + turns, columns=system_columns | {key}, notes=tuple(notes)
    )


def _from_pair(prompt: str, answer: str, columns: Mapping[str, Any]) -> Shape:
    format = "alpaca" if prompt == "instruction" else "prompt_completion"
    history = _parsed(columns.get("history")) or []
    notes: list[str] = []
    if _are_messages(history):
        past, notes = _turns(history)
    elif isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        past = [turn for said, reply in history for turn in (_user(said), _assistant(reply))]
    else:
        return Shape(format, [], fault="'history' isn't a list of [user's text, assistant's text]")
    question, reply = columns[prompt], columns[answer]
    if isinstance(question, str) and _are_messages(question_messages := _as_messages(question)):
        if _are_messages(_as_messages(reply)):
            question, reply = question_messages, _as_messages(reply)
        else:
            notes.append(f"has messages as JSON in '{prompt}', which stay a text, since '{answer}' has none")
    if isinstance(reply, Mapping) and _are_messages([reply]):
        reply = [reply]
    read = {prompt, answer, "history"}
    if _are_messages(question):
        question_turns, more = _turns(question)
        notes += more
    else:
        names = [prompt, *(name for name in CONTEXTS if name != prompt and name in columns)]
        read |= set(names)
        question_turns = [_user(_joined({name: columns[name] for name in names}, notes))]
    if _are_messages(reply) or (_are_messages(question) and isinstance(reply, list)):
        reply_turns, more = _turns(reply)
        notes += more
    else:
        reply_turns = [_assistant(_text(answer, reply, notes))]
    system, system_columns = _system(columns, question_turns)
    turns = system + past + question_turns + reply_turns
    return Shape(format, turns, columns=system_columns | read, notes=tuple(notes))


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and any(
        isinstance(item, Mapping) and {"role", "from"} & item.keys() for item in value
    )


def _as_messages(value: Any) -> Any:
    """Return the messages that a text writes as a list; other texts and values unchanged."""
    return _parsed(value) if isinstance(value, str) and _LIST_OF_MESSAGES.match(value) else value


def _joined(columns: Mapping[str, Any], notes: list[str]) -> Any:
    """Return the question with what belongs to it below; content of OpenAI's parts stays as it is."""
    (_, question), *more = columns.items()
    if (
        isinstance(question, list)
        and question
        and all(isinstance(part, Mapping) and "type" in part for part in question)
    ):
        parts = [{"type": "text", "text": f"\n{_text(name, value, notes)}"} for name, value in more]
        return [*question, *parts]
    texts = [_text(name, value, notes) for name, value in columns.items() if value not in ([], {})]
    return "\n".join(text for text in texts if text.strip())


def _text(column: str, value: Any, notes: list[str]) -> str:
    if isinstance(value, str):
        return value
    notes.append(f"has a value in '{column}' that isn't a text, written as JSON")
    return json.dumps(value, ensure_ascii=False, default=str)


def _system(columns: Mapping[str, Any], messages: list[Any]) -> tuple[list[Any], frozenset[str]]:
    """Return the system message of a column, where the messages have none, and the names of the columns that it says."""
    texts = [
        message.get("content")
        for message in messages
        if isinstance(message, Mapping) and message.get("role") in ("system", "developer")
    ]
    is_given = bool(texts)
    texts += [columns[name] for name in SYSTEMS if not is_given and columns.get(name)][:1]
    read = frozenset(name for name in SYSTEMS if columns.get(name) in texts)
    return [] if is_given else [{"role": "system", "content": text} for text in texts], read


def _is_empty_system(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "system" and message.get("content") == ""


def _turns(messages: Iterable[Any]) -> tuple[list[Any], list[str]]:
    """Return messages with OpenAI's keys and roles, and notes; anything but an object stays, for the check to report."""
    turns: list[Any] = []
    notes: list[str] = []
    for message in messages:
        if is_plain(message):
            turns.append(message)
            continue
        turn = _message(message)
        if _is_object_of_tool(turn):
            notes.append("has a tool's result that isn't a text, written as JSON")
            turn = {**turn, "content": json.dumps(turn["content"], ensure_ascii=False, default=str)}
        results = _results(turn)
        if results:
            notes.append("has a tool's result in <tool_response> tags, read without them: templates write their own")
        turns += results or [turn]
    return turns, list(dict.fromkeys(notes))


def is_plain(message: Any) -> bool:
    """Return whether a message has a role and a text, as nearly all have, and needs no conversion."""
    return (
        type(message) is dict
        and len(message) == 2
        and type(message.get("content")) is str
        and message.get("role") in PLAIN_ROLES
    )


def _is_object_of_tool(turn: Any) -> bool:
    content = turn.get("content") if isinstance(turn, dict) and turn.get("role") == "tool" else ""
    parts = content if isinstance(content, list) else []
    are_parts = bool(parts) and all(isinstance(part, Mapping) and "type" in part for part in parts)
    return content is not None and not isinstance(content, str) and not are_parts


def _results(turn: Any) -> list[dict[str, Any]]:
    """Return a turn for each result of a tool that stands in Hermes' tags; empty where it has none, or more than those."""
    content = turn.get("content") if isinstance(turn, dict) and turn.get("role") == "tool" else None
    if not isinstance(content, str) or not _TOOL_RESPONSE.match(content) or _TOOL_RESPONSE.sub("", content):
        return []
    results = [result.strip() for result in _TOOL_RESPONSE.findall(content)]
    return (
        [{**turn, "content": result} for result in results] if len(results) == 1 or "tool_call_id" not in turn else []
    )


def _message(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    body = {key: value for key, value in message.items() if value is not None}
    for key in [key for key in body if key not in _MESSAGE_FIELDS and str(key).strip().lower() in _MESSAGE_FIELDS]:
        body.setdefault(str(key).strip().lower(), body.pop(key))
    if "from" in body and "role" not in body:
        body["role"] = body.pop("from")
    if "value" in body and "content" not in body and "role" in body:
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
    content = body.get("content")
    texts = _TOOL_CALL.findall(content) if isinstance(content, str) and not _TOOL_CALL.sub("", content) else []
    values = [_parsed(text.strip()) for text in texts] or [_parsed(content)]
    calls = [call for value in values for call in (value if isinstance(value, list) else [value])]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        return body
    functions = [{"type": "function", "function": dict(call)} for call in calls]
    rest = {key: value for key, value in body.items() if key not in ("role", "content")}
    return {**rest, "role": "assistant", "tool_calls": functions}


def _parsed(value: Any) -> Any:
    """Parse the list or object in a cell's text (JSON, or a Python literal); return other values unchanged."""
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value


def _no_format(columns: Mapping[str, Any], empty: list[str]) -> str:
    names = (", ".join(columns) or "nothing") + (f"; null: {', '.join(empty)}" if empty else "")
    fault = (
        f"has no 'messages' (it has: {names}). Known are messages; conversations (ShareGPT); instruction and output "
        "(Alpaca); prompt and completion"
    )
    return f"{fault}{_rename(columns)}"


def _rename(columns: Mapping[str, Any]) -> str:
    """Return what to rename so that a row is read; an empty text where it has too little."""
    lists = [name for name, value in columns.items() if _are_messages(_as_messages(value))]
    if lists:
        return f". Rename '{lists[0]}' to 'messages'"
    prompt = next((name for name in PROMPTS if name in columns), None)
    answer = next((name for name in ANSWERS if name in columns), None)
    others = [name for name, value in columns.items() if isinstance(value, str) and name not in (prompt, answer)]
    if len(others) + bool(prompt or answer) < 2:
        return ""
    choices = " or ".join(f"'{name}'" for name in others) if len(others) <= 3 else "the column"
    if prompt:
        return f". Rename {choices} to 'completion', whichever holds the answer beside '{prompt}'"
    if answer:
        return f". Rename {choices} to 'prompt', whichever holds the question beside '{answer}'"
    return ". Rename the column of the question to 'prompt', and that of the answer to 'completion'"


def _is_null(value: Any) -> bool:
    """Return whether a cell is empty; tables of pandas have NaN there."""
    return value is None or (isinstance(value, float) and value != value)


def _kind(value: Any) -> str:
    names = {
        str: "a text that isn't JSON",
        dict: "an object",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null" if value is None else type(value).__name__)
