"""A stored response: an answer of an endpoint that its caller can read again, and go on with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoredResponse:
    """A response of OpenAI's Responses API with the items that it answers.

    owner: whose key asked for it, and may read it: a user's, or that of whoever has the endpoint's keys or the key of all
    endpoints. previous: the id of the response that it goes on with, None for a first one. input: its own items, without those
    of the ones before. body: the response as its client got it.
    """

    id: str
    endpoint: str
    owner: str
    previous: str | None
    input: tuple[Mapping[str, Any], ...]
    body: Mapping[str, Any]
