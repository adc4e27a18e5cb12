"""How many tokens a request may take, before anybody has counted them."""

import json
from typing import Any

BYTES_PER_TOKEN = 4
"""Of a prompt as JSON, about: whoever has its tokenizer knows better, later."""


def tokens_asked(body: bytes) -> int:
    """Return about how many tokens a request may take: those of its text, and of each of its longest answers, where it says."""
    try:
        content = json.loads(body)
    except ValueError:
        return 0
    if not isinstance(content, dict):
        return 0
    longest = _number(content, "max_completion_tokens") or _number(content, "max_tokens")
    return len(body) // BYTES_PER_TOKEN + longest * (_number(content, "n") or 1)


def _number(content: dict[str, Any], name: str) -> int:
    value = content.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
