"""Tool call parser: function calls in a model's text, `<tool_call>{...}</tool_call>` as Qwen and SmolLM write them, or
an answer that is only JSON with a function's name, as Llama and Phi do."""

import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from mafunzo.protocol.body import printable

OPENING = "<tool_call>"
CLOSING = "</tool_call>"
_SPACE = re.compile(r"\s*")
_CLOSING = re.compile(r"\s*(?:</tool_call>|\Z)")


class ToolCallFilter:
    """Passes text through until it looks like a tool call; the rest is buffered, and parsed at the end.

    `names`: the functions that may be called. Text that looked like a call and isn't one is returned unchanged.
    """

    def __init__(self, names: Collection[str], new_id: Callable[[], str] | None = None) -> None:
        self._names = frozenset(names)
        self._new_id = new_id or (lambda: f"call_{secrets.token_hex(12)}")
        self._buffer = ""
        self._has_text = False

    def add(self, text: str) -> str:
        """Return the text that can't belong to a tool call."""
        self._buffer += text
        start = self._buffer.lstrip()
        if not self._has_text and (not start or start[0] in "{["):
            return ""
        at = self._buffer.find(OPENING)
        if at < 0:
            at = len(self._buffer) - _overlap(self._buffer, OPENING)
        safe_text, self._buffer = self._buffer[:at], self._buffer[at:]
        self._has_text = self._has_text or bool(safe_text.strip())
        return safe_text

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """Return the rest of the text, what stands after and between calls, and the calls."""
        text, self._buffer = self._buffer, ""
        try:
            texts, bodies = _split(text)
        except (ValueError, RecursionError):
            return text, []
        calls = [self._call(item) for body in bodies for item in (body if isinstance(body, list) else [body])]
        if None in calls:
            return text, []
        return "".join(part for part in texts if part.strip()), [call for call in calls if call is not None]

    def _call(self, item: object) -> dict[str, Any] | None:
        name = item.get("name") if isinstance(item, Mapping) else None
        if not isinstance(item, Mapping) or not isinstance(name, str) or name not in self._names:
            return None
        arguments = item.get("arguments", item.get("parameters"))
        text = (
            printable(arguments) if isinstance(arguments, str) else json.dumps({} if arguments is None else arguments)
        )
        return {"id": self._new_id(), "type": "function", "function": {"name": name, "arguments": text}}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} isn't a number in JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, strict=False)


def _split(text: str) -> tuple[list[str], list[Any]]:
    """Return the text around calls, and the JSON of each up to the first that isn't any; raises `ValueError` if there is none.

    Where a call ends is decided by its JSON, not by the first closing tag, which may stand in an argument.
    """
    if text.lstrip()[:1] in ("{", "["):  # a bare call, or several, whose arguments may say anything
        with suppress(ValueError):
            return [], [_DECODER.decode(text.strip())]
    texts, bodies, position = [], [], 0
    while (at := text.find(OPENING, position)) >= 0:
        try:
            body, end = _value_at(text, at + len(OPENING))
        except (ValueError, RecursionError):
            break  # it was cut off, or is none: what was called before it stays called
        texts.append(text[position:at])
        bodies.append(body)
        position = end
    if not bodies:
        raise ValueError("there is no call")
    return [*texts, text[position:]], bodies


def _value_at(text: str, position: int) -> tuple[Any, int]:
    """Return the JSON value there, and where the closing tag after it (or the text) ends."""
    start = _SPACE.match(text, position)
    assert start is not None
    body, end = _DECODER.raw_decode(text, start.end())
    closing = _CLOSING.match(text, end)
    if closing is None:
        raise ValueError("something else follows the JSON")
    return body, closing.end()


def _overlap(text: str, opening: str) -> int:
    return next((n for n in range(len(opening) - 1, 0, -1) if text.endswith(opening[:n])), 0)
