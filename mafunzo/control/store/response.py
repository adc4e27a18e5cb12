"""Stored responses of endpoints, a file each: `<home>/responses/<endpoint>/<id>.json`.

Files and no rows: one is written for each answer, and what a server keeps in memory of the database is read again after each
write to it.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mafunzo.control.store.codec import decode, encode
from mafunzo.control.store.disk import full_disk_told, remove_tree
from mafunzo.control.store.home import Home
from mafunzo.entities.stored_response import StoredResponse
from mafunzo.errors import ArtifactCorrupt
from mafunzo.tracking.atomic_json import write_json
from mafunzo.tracking.regular_file import read_regular

FOLDER = "responses"
_ID = re.compile(r"resp_[0-9a-f]{48}")


def put(home: Home, response: StoredResponse) -> None:
    """Store a response; it survives a power cut once this returns. Raises `StorageFull`."""
    path = _path(home, response.endpoint, response.id)
    with full_disk_told(f"response {response.id} was being stored"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, encode(response), ensure_ascii=False, mode=0o600, is_durable=True)


def find(home: Home, endpoint: str, id: str) -> StoredResponse | None:
    """Return a response of an endpoint, or None. Raises `ArtifactCorrupt` for a damaged one."""
    if not _ID.fullmatch(id):
        return None
    path = _path(home, endpoint, id)
    text = read_regular(path)
    if text is None:
        return None
    try:
        return decode(StoredResponse, json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactCorrupt(f"The stored response {id} of endpoint {endpoint} is damaged. Delete {path}.") from error


def mark_used(home: Home, response: StoredResponse) -> None:
    """Note that a response was used now, so that pruning counts its age from now on."""
    with suppress(FileNotFoundError):
        os.utime(_path(home, response.endpoint, response.id))


def delete(home: Home, response: StoredResponse) -> None:
    """Delete a response; idempotent."""
    _path(home, response.endpoint, response.id).unlink(missing_ok=True)


def forget(home: Home, endpoint: str) -> None:
    """Delete all responses of an endpoint."""
    remove_tree(home.root / FOLDER / endpoint)


def files(home: Home) -> Iterator[Path]:
    """Yield the file of each stored response of any endpoint."""
    yield from sorted((home.root / FOLDER).glob("*/resp_*.json"))


def _path(home: Home, endpoint: str, id: str) -> Path:
    return home.root / FOLDER / endpoint / f"{id}.json"
