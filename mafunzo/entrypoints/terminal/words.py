"""The `key=value` words of a command."""

from typing import Any

from mafunzo.errors import InvalidParameter


def pairs(words: list[str]) -> dict[str, Any]:
    """Parse `key=value` words; raises `InvalidParameter` for any other word."""
    faults = [f"'{word}' isn't key=value." for word in words if "=" not in word]
    if faults:
        raise InvalidParameter("The parameters can't be read.", faults)
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}
