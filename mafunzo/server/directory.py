"""What requests need of the store, kept for a moment: reading it costs more than passing a request on does."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.errors import MafunzoError, NotFound, Unauthorized
from mafunzo.store.record import Records

MAX_AGE_S = 0.25
"""How long a key that was replaced, or traffic that was shifted, may go on to count."""

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """An endpoint, the hashes of its keys, and its deployments."""

    endpoint: Endpoint
    keys: tuple[bytes, bytes]
    deployments: Sequence[Deployment]

    def has(self, given: bytes) -> bool:
        """Compare a key's hash with both keys', whichever it is."""
        is_primary, is_secondary = (hmac.compare_digest(given, known) for known in self.keys)
        return is_primary or is_secondary


@dataclass(frozen=True)
class Snapshot:
    """All endpoints that aren't being deleted, as they were at one moment. read_at: on the monotonic clock."""

    entries: Sequence[Entry]
    read_at: float

    def opened_by(self, key: str) -> list[Entry]:
        """Return what `key` opens; raises `Unauthorized` if that is nothing.

        All keys are compared, in constant time: the time taken tells nothing of which endpoints exist.
        """
        given = digest(key)
        opened = [entry for entry in self.entries if entry.has(given)]
        if not opened:
            raise Unauthorized("The key is wrong. 'mafunzo endpoint keys NAME' shows the right one.")
        return opened

    def find(self, key: str, name: str) -> Entry:
        """Return the endpoint called `name`, which `key` must open; raises `Unauthorized` or `NotFound`.

        Whether there is such an endpoint that the key doesn't open isn't told.
        """
        for entry in self.opened_by(key):
            if entry.endpoint.name == name:
                return entry
        raise NotFound(
            f"The model '{name}' doesn't exist, or this key doesn't open it. 'model' is the name of the endpoint."
        )


class Directory:
    """The newest snapshot."""

    def __init__(self, records: Records, clock: Callable[[], float] = time.monotonic) -> None:
        self._records, self._clock = records, clock
        self._newest = Snapshot((), float("-inf"))
        self._reading = asyncio.Lock()

    async def ask(self, question: Callable[[Snapshot], T]) -> T:
        """Return the answer of a snapshot that is at most a moment old. A refusal is always that of a fresh one: what was
        made just now is there."""
        asked_at = self._clock()
        snapshot = await self._not_older_than(asked_at - MAX_AGE_S)
        try:
            return question(snapshot)
        except MafunzoError:
            if snapshot.read_at >= asked_at:
                raise
        return question(await self._not_older_than(asked_at))

    async def _not_older_than(self, moment: float) -> Snapshot:
        if self._newest.read_at < moment:
            async with self._reading:  # many that wait are served by one reading
                if self._newest.read_at < moment:
                    read_at = self._clock()
                    self._newest = Snapshot(await run_in_threadpool(read, self._records), read_at)
        return self._newest


def read(records: Records) -> list[Entry]:
    """Read all endpoints that aren't being deleted."""
    deployments: dict[str, list[Deployment]] = {}
    for deployment in records.list_deployments():
        deployments.setdefault(deployment.endpoint, []).append(deployment)
    entries = []
    for endpoint in records.list_endpoints():
        if endpoint.is_deleting:
            continue
        try:
            primary, secondary = records.endpoint_keys(endpoint.name)
        except NotFound:  # deleted since it was listed
            continue
        entries.append(Entry(endpoint, (digest(primary), digest(secondary)), deployments.get(endpoint.name, [])))
    return entries


def digest(key: str) -> bytes:
    """Return the hash under which a key is compared."""
    return hashlib.sha256(key.encode()).digest()
