"""The request body stored beside its entity, so that an answer also has the fields that only Azure's clients know."""

from collections.abc import Mapping
from typing import Any, Protocol

KEY = "azure"
"""Under which an entity's `echoes` hold the body; nothing but this dialect reads it."""


class Echoing(Protocol):
    """An entity that stores request bodies of entrypoints."""

    @property
    def echoes(self) -> Mapping[str, Any]: ...


def echoes(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the echoes of an entity that `body` makes."""
    return {KEY: dict(body)}


def echo_of(entity: Echoing) -> Mapping[str, Any]:
    """Return the last request body of an entity in this dialect; empty where another entrypoint made it."""
    body: Mapping[str, Any] = entity.echoes.get(KEY) or {}
    return body
