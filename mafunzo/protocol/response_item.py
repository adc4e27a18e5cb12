"""Items of OpenAI's Responses API: those of a request, checked and in the form in which they are stored, and as chat messages.

Taken are messages of text, calls of functions and their outputs. Items of reasoning are left out, as OpenAI leaves out those of
earlier turns: no model here reads them.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.field import Fields, shown

Item = Mapping[str, Any]
NewId = Callable[[str], str]
"""Makes the id of a thing whose kind is its prefix: `msg`, `fc`, `resp` ..."""
ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = ("input_text", "output_text")
MAX_PAGE = 100


def random_id(prefix: str) -> str:
    """Return an id that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(24)}"


def read_items(fields: Fields, new_id: NewId) -> tuple[Item, ...]:
    """Return the items of `input`, and record their faults; a text is a message of the user's."""
    value = fields.raw("input")
    if isinstance(value, str):
        return (_message(new_id("msg"), "user", [_part("user", value)]),)
    if not isinstance(value, list) or not value:
        fields.fault("input", f"input is {shown(value)}, expected text, or a list of at least one item.")
        return ()
    items = (_read_item(fields, f"input[{i}]", body, new_id) for i, body in enumerate(value))
    return tuple(item for item in items if item is not None)


def chat_messages(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Return items as messages of a chat completion; calls belong to the message of the assistant that they follow."""
    messages: list[dict[str, Any]] = []
    for item in items:
        if item["type"] == "message":
            messages.append({"role": item["role"], "content": _text(item["content"])})
        elif item["type"] == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            messages[-1].setdefault("tool_calls", []).append(call)
        else:
            content = item["output"] if isinstance(item["output"], str) else _text(item["output"])
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
    return messages


def require_calls(items: Iterable[Item]) -> None:
    """Raise `InvalidParameter` for an output of a call that no item before it makes."""
    calls = set()
    for item in items:
        if item["type"] == "function_call":
            calls.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in calls:
            raise InvalidParameter(
                f"input has an output of the call {shown(item['call_id'])}, which no item before it makes. Put the "
                "function_call in front of it, or name the response that made it as previous_response_id.",
                param="input",
            )


def item_page(items: Sequence[Item], query: Mapping[str, str]) -> dict[str, Any]:
    """Return a page of a list of items, as the parameters of a request's address ask for it; raises `InvalidParameter`.

    limit: 1 to 100, 20 by default. order: `desc` (the newest first, the default) or `asc`. after: the id of the item before.
    """
    number = query.get("limit", "20")
    fields = Fields({**query, "limit": int(number) if number.isascii() and number.isdecimal() else number})
    limit, order, after = (
        fields.integer("limit", 1, MAX_PAGE) or 1,
        fields.text("order") or "desc",
        fields.text("after"),
    )
    if order not in ("asc", "desc"):
        fields.fault("order", f"order is {shown(order)}, expected 'asc' or 'desc'.")
    ordered = list(items) if order == "asc" else list(reversed(items))
    ids = [item["id"] for item in ordered]
    if after is not None and after not in ids:
        fields.fault("after", f"after is {shown(after)}, expected the id of an item of the response's input.")
    fields.check()
    begin = 0 if after is None else ids.index(after) + 1
    page = ordered[begin : begin + limit]
    first_id, last_id = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    has_more = begin + limit < len(ordered)
    return {"object": "list", "data": page, "first_id": first_id, "last_id": last_id, "has_more": has_more}


def output_text(text: str) -> dict[str, Any]:
    """Return a part of an assistant's message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _read_item(fields: Fields, at: str, body: object, new_id: NewId) -> Item | None:
    """Return an item, or None for one of reasoning, and for one at fault after recording that."""
    if isinstance(body, Mapping):
        body = {name: value for name, value in body.items() if value is not None}  # as clients write what isn't set
        kind = body.get("type", "message")
        if kind == "reasoning":
            return None
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            name = f"{at}.type"
            fields.fault(name, f"{name} is {shown(kind)}, expected one of {', '.join(_READERS)}.")
            return None
        return fields.within(at, body, lambda item: read(item, new_id), None)
    fields.fault(at, f"{at} is {shown(body)}, expected an item as a JSON object.")
    return None


def _read_message(item: Fields, new_id: NewId) -> Item:
    role = item.raw("role")
    if role not in ROLES:
        item.wrong("role", role, f"one of {', '.join(ROLES)}")
    item.refuse({"phase": (("final_answer",), "a chat template has no place for it.")})
    item.ignore("type", "status")
    return _message(item.text("id") or new_id("msg"), role, _read_content(item, "content", role))


def _read_call(item: Fields, new_id: NewId) -> Item:
    item.ignore("type", "status")
    return {
        "id": item.text("id") or new_id("fc"),
        "type": "function_call",
        "status": "completed",
        "call_id": item.required_text("call_id"),
        "name": item.required_text("name"),
        "arguments": item.text("arguments") or "{}",
    }


def _read_output(item: Fields, new_id: NewId) -> Item:
    item.ignore("type", "status")
    output = item.raw("output")
    return {
        "id": item.text("id") or new_id("fco"),
        "type": "function_call_output",
        "status": "completed",
        "call_id": item.required_text("call_id"),
        "output": output if isinstance(output, str) else _read_content(item, "output", "user"),
    }


_READERS: Mapping[str, Callable[[Fields, NewId], Item]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_output,
}


def _read_content(item: Fields, name: str, role: str) -> list[Item]:
    """Return the parts of a content, and record their faults."""
    content = item.raw(name)
    if isinstance(content, str):
        return [_part(role, content)]
    if not isinstance(content, list):
        item.wrong(name, content, "text, or a list of parts of text")
        return []
    parts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else part
        if kind in TEXT_PARTS:
            parts.append(_part(role, item.within(f"{name}[{i}]", part, _read_text, "")))
        else:
            item.wrong(f"{name}[{i}].type", kind, f"{' or '.join(TEXT_PARTS)}: only texts are supported")
    return parts


def _read_text(part: Fields) -> str:
    part.ignore("type", "annotations", "logprobs")
    text = part.text("text")
    if text is None:
        part.wrong("text", text, "a string")
    return text or ""


def _message(id: str, role: str, parts: Sequence[Item]) -> Item:
    return {"id": id, "type": "message", "status": "completed", "role": role, "content": list(parts)}


def _part(role: str, text: str) -> Item:
    return output_text(text) if role == "assistant" else {"type": "input_text", "text": text}


def _text(parts: Iterable[Item]) -> str:
    return "".join(part["text"] for part in parts)
