"""Finding a model's function calls in its text: `<tool_call>{...}</tool_call>` as Qwen and SmolLM write them, or an answer
that is nothing but JSON with a function's name, as Llama and Phi do."""

import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any

OPENING = "<tool_call>"
_BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


class ToolCallFilter:
    """Lets text through until it looks like a call; the rest is kept to be read as a whole at the end.

    `names`: the functions that may be called. Text that looked like a call and isn't one comes out as it was.
    """

    def __init__(self, names: Collection[str], new_id: Callable[[], str] | None = None) -> None:
        self._names = frozenset(names)
        self._new_id = new_id or (lambda: f"call_{secrets.token_hex(12)}")
        self._held = ""
        self._has_text = False

    def add(self, text: str) -> str:
        """Return what certainly is text."""
        self._held += text
        start = self._held.lstrip()
        if not self._has_text and (not start or start[0] in "{["):
            return ""
        at = self._held.find(OPENING)
        if at < 0:
            at = len(self._held) - _overlap(self._held, OPENING)
        certain, self._held = self._held[:at], self._held[at:]
        self._has_text = self._has_text or bool(certain.strip())
        return certain

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """Return the rest of the text, and the calls."""
        held, self._held = self._held, ""
        blocks = _BLOCK.findall(held)
        calls = self._read(blocks if blocks else [held])
        return ("", calls) if calls else (held, [])

    def _read(self, texts: list[str]) -> list[dict[str, Any]]:
        """Return the calls if every text is one, else none."""
        found: list[dict[str, Any]] = []
        for text in texts:
            try:
                body = json.loads(text)
            except ValueError:
                return []
            for item in body if isinstance(body, list) else [body]:
                call = self._call(item)
                if call is None:
                    return []
                found.append(call)
        return found

    def _call(self, item: object) -> dict[str, Any] | None:
        if not isinstance(item, Mapping) or item.get("name") not in self._names:
            return None
        arguments = item.get("arguments", item.get("parameters", {}))
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return {"id": self._new_id(), "type": "function", "function": {"name": item["name"], "arguments": text}}


def _overlap(text: str, opening: str) -> int:
    return next((n for n in range(len(opening) - 1, 0, -1) if text.endswith(opening[:n])), 0)
