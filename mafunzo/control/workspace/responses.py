"""Stored responses: answers of endpoints that whoever asked for them reads again, goes on with, or deletes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mafunzo.control.store import response as store
from mafunzo.control.workspace.services import Services
from mafunzo.entities.stored_response import StoredResponse
from mafunzo.errors import InvalidParameter, PreviousResponseNotFound, ResponseNotFound

Owners = Mapping[str, str]
"""Who asks, as the owner of responses, by each endpoint that their key opens."""
Items = list[Mapping[str, Any]]


class Responses:
    """The verbs on stored responses. Each is its owner's: for all others there is none."""

    def __init__(self, services: Services) -> None:
        self._home = services.home

    def put(self, response: StoredResponse) -> None:
        """Store a response. Raises `StorageFull`."""
        store.put(self._home, response)

    def get(self, id: str, owners: Owners) -> StoredResponse:
        """Return a response; raises `ResponseNotFound`."""
        response = self._find(id, owners)
        if response is None:
            raise ResponseNotFound(
                f"There is no stored response {id!r} that this key may read: it wasn't stored, was deleted or pruned, or was "
                "asked for with another's key."
            )
        return response

    def delete(self, id: str, owners: Owners) -> None:
        """Delete a response; those that go on with it can't be gone on with any more. Raises `ResponseNotFound`."""
        store.delete(self._home, self.get(id, owners))

    def conversation(self, id: str, owners: Owners, most_characters: int) -> Items:
        """Return the items up to the end of a response, the oldest first: those of the ones before it, its own and its answer.

        All of them count as used now. Raises `PreviousResponseNotFound`, and `InvalidParameter` for texts of more than
        `most_characters` together.
        """
        items: Items = []
        characters, next_id, later_id = 0, id, ""
        while next_id:
            response = self._find(next_id, owners)
            if response is None:
                before = f", which response {later_id!r} goes on with," if later_id else ""
                raise PreviousResponseNotFound(
                    f"There is no stored response {next_id!r}{before} that this key may read: it wasn't stored, was deleted or "
                    "pruned, or was asked for with another's key. Send the whole conversation as input.",
                    param="previous_response_id",
                )
            store.mark_used(self._home, response)
            turn = [*response.input, *response.body["output"]]
            characters += sum(len(str(item)) for item in turn)
            if characters > most_characters:
                raise InvalidParameter(
                    f"The conversation up to response {id!r} is longer than {most_characters} characters: begin a new one.",
                    param="previous_response_id",
                )
            items[:0] = turn
            next_id, later_id = response.previous or "", next_id
        return items

    def _find(self, id: str, owners: Owners) -> StoredResponse | None:
        found = (store.find(self._home, endpoint, id) for endpoint in owners)
        return next((one for one in found if one is not None and one.owner == owners[one.endpoint]), None)
