"""What the words of a command say."""

from typing import Any

from mafunzo.errors import InvalidParameter


def pairs(words: list[str]) -> dict[str, Any]:
    """Return what `key=value` words say; raises `InvalidParameter` for any other word."""
    faults = [f"'{word}' isn't key=value." for word in words if "=" not in word]
    if faults:
        raise InvalidParameter("The parameters can't be read.", faults)
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}
