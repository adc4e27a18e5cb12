"""The requests of each deployment: those that its worker has, and those that wait for it in the order in which they came."""

import asyncio
from dataclasses import dataclass

from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.entities.endpoint import Deployment


@dataclass
class _Queue:
    """places: for requests that the worker may have at once. in_flight: those that it has, or that wait."""

    places: asyncio.Semaphore
    in_flight: int = 0


class Slot:
    """A place of a request with a worker, until it is freed."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._is_free = False

    def free(self) -> None:
        """Let the next request in; idempotent."""
        if not self._is_free:
            self._is_free = True
            self._places.release()


class Queues:
    """The queues of all deployments. requests_at_once: how many of one deployment's requests its worker has."""

    def __init__(self, requests_at_once: int, metrics: RequestMetrics) -> None:
        self._at_once, self._metrics = requests_at_once, metrics
        self._queues: dict[tuple[str, str], _Queue] = {}

    def enter(self, deployment: Deployment) -> int:
        """Count a request as one of a deployment; return how many it has now. `leave` must follow."""
        queue = self._queues.setdefault(_key(deployment), _Queue(asyncio.Semaphore(self._at_once)))
        queue.in_flight += 1
        return queue.in_flight

    def leave(self, deployment: Deployment) -> None:
        """Count a request as no deployment's any more."""
        queue = self._queues[_key(deployment)]
        queue.in_flight -= 1
        if not queue.in_flight:
            del self._queues[_key(deployment)]

    async def take(self, deployment: Deployment) -> Slot:
        """Return a place with a deployment's worker, once it is this request's turn. It must be freed."""
        places = self._queues[_key(deployment)].places
        self._metrics.wait(deployment, 1)
        try:
            await places.acquire()
        finally:
            self._metrics.wait(deployment, -1)
        return Slot(places)


def _key(deployment: Deployment) -> tuple[str, str]:
    return deployment.endpoint, deployment.name
