"""What is kept of a request's body beside its entity, so that an answer has also what only Azure's clients know."""

from collections.abc import Mapping
from typing import Any, Protocol

KEY = "azure"
"""Under which an entity's `echoes` hold the body; nothing but this dialect reads it."""


class Echoing(Protocol):
    """An entity that keeps bodies of ways in."""

    @property
    def echoes(self) -> Mapping[str, Any]: ...


def echoes(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the echoes of an entity that `body` makes."""
    return {KEY: dict(body)}


def echo_of(entity: Echoing) -> Mapping[str, Any]:
    """Return the body that an entity was last made of over this dialect; empty for one that another way in made."""
    body: Mapping[str, Any] = entity.echoes.get(KEY) or {}
    return body
