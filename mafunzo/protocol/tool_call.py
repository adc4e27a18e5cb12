"""Tool call parser: function calls in a model's text, `<tool_call>{...}</tool_call>` as Qwen and SmolLM write them, or
an answer that is only JSON with a function's name, as Llama and Phi do."""

import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any

OPENING = "<tool_call>"
_BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


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
        """Return the rest of the text, and the calls."""
        text, self._buffer = self._buffer, ""
        blocks = _BLOCK.findall(text)
        calls = self._read(blocks if blocks else [text])
        return ("", calls) if calls else (text, [])

    def _read(self, texts: list[str]) -> list[dict[str, Any]]:
        """Return the calls if every text is one, else none."""
        calls: list[dict[str, Any]] = []
        for text in texts:
            try:
                body = json.loads(text)
            except ValueError:
                return []
            for item in body if isinstance(body, list) else [body]:
                call = self._call(item)
                if call is None:
                    return []
                calls.append(call)
        return calls

    def _call(self, item: object) -> dict[str, Any] | None:
        if not isinstance(item, Mapping) or item.get("name") not in self._names:
            return None
        arguments = item.get("arguments", item.get("parameters", {}))
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return {"id": self._new_id(), "type": "function", "function": {"name": item["name"], "arguments": text}}


def _overlap(text: str, opening: str) -> int:
    return next((n for n in range(len(opening) - 1, 0, -1) if text.endswith(opening[:n])), 0)
