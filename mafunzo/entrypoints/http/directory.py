"""A cache of what requests read from the store, until something is written: reading it costs more than forwarding a request."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from mafunzo.control.workspace.endpoints import Endpoints
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.errors import NotFound, Unauthorized


@dataclass(frozen=True)
class Entry:
    """An endpoint, the hashes of its keys, and its deployments."""

    endpoint: Endpoint
    keys: tuple[bytes, bytes]
    deployments: Sequence[Deployment]

    def has(self, key_hash: bytes) -> bool:
        """Compare a key's hash with both keys', whichever it is."""
        is_primary, is_secondary = (hmac.compare_digest(key_hash, known) for known in self.keys)
        return is_primary or is_secondary


@dataclass(frozen=True)
class Snapshot:
    """All endpoints that aren't being deleted, as they were at one moment.

    general_key: reads the key that opens all of them; an empty one opens nothing.
    """

    entries: Sequence[Entry]
    general_key: Callable[[], str] = str

    def opened_by(self, key: str) -> list[Entry]:
        """Return what `key` opens: one endpoint, or as the general key all of them; raises `Unauthorized` if it opens nothing.

        All keys are compared, in constant time: the time taken tells nothing of which endpoints exist.
        """
        key_hash, general_key = digest(key), self.general_key()
        if general_key and hmac.compare_digest(key_hash, digest(general_key)):
            return list(self.entries)
        opened = [entry for entry in self.entries if entry.has(key_hash)]
        if not opened:
            raise Unauthorized("The key is wrong. 'mafunzo endpoint keys NAME' shows the right one.")
        return opened

    def find(self, key: str, name: str) -> Entry:
        """Return the endpoint called `name`, which `key` must open; raises `Unauthorized` or `NotFound`.

        Whether there is such an endpoint that the key doesn't open isn't told.
        """
        return named(self.opened_by(key), name)


class Directory:
    """The newest snapshot, read again only when something was written since."""

    def __init__(
        self, endpoints: Endpoints, version: Callable[[], int | None], general_key: Callable[[], str] = str
    ) -> None:
        """`version` returns a number that changes with every write, or None where there is none: then each call reads.

        general_key: as a snapshot's.
        """
        self._endpoints, self._version, self._general_key = endpoints, version, general_key
        self._newest: Snapshot | None = None
        self._newest_version: int | None = None
        self._reading = asyncio.Lock()

    async def newest(self) -> Snapshot:
        """Return the endpoints with all that was written before the call."""
        if self._is_current():
            assert self._newest is not None
            return self._newest
        async with self._reading:
            if self._newest is None or not self._is_current():
                version = self._version()  # before the reading: what is written meanwhile is read the next time
                self._newest = Snapshot(await run_in_threadpool(_read, self._endpoints), self._general_key)
                self._newest_version = version
            return self._newest

    async def current(self) -> dict[str, tuple[Endpoint, Sequence[Deployment]]]:
        """Return every endpoint and its deployments by its name, as the router looks at them."""
        return {entry.endpoint.name: (entry.endpoint, entry.deployments) for entry in (await self.newest()).entries}

    def _is_current(self) -> bool:
        return self._newest_version is not None and self._version() == self._newest_version


def named(entries: Sequence[Entry], name: str) -> Entry:
    """Return the endpoint called `name` among those that a key opens; raises `NotFound`."""
    for entry in entries:
        if entry.endpoint.name == name:
            return entry
    raise NotFound(
        f"The model '{name}' doesn't exist, or this key doesn't open it. 'model' is the name of the endpoint."
    )


def _read(endpoints: Endpoints) -> list[Entry]:
    """Read all endpoints that aren't being deleted."""
    return [
        Entry(keyed.endpoint, (digest(keyed.keys[0]), digest(keyed.keys[1])), keyed.deployments)
        for keyed in endpoints.with_keys()
        if not keyed.endpoint.is_deleting
    ]


def digest(key: str) -> bytes:
    """Return the hash under which a key is compared."""
    return hashlib.sha256(key.encode()).digest()
