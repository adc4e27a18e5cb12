"""The requests of each deployment: those that its worker has, and those that wait for it in the order in which they came.

Whose fault it was. A worker that dies leaves all its requests unanswered, and one of them may have killed it. Sent again
together, that one would kill the next worker too, and all with it. So those that are sent again go one after the other: each is
on trial for a moment, and what ends a worker in its trial is to blame alone; the others are sent once more.
"""

import asyncio
from dataclasses import dataclass, field

from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.entities.endpoint import Deployment

TRIAL_S = 1.0
"""How long a request that is sent again is watched before the next one goes."""
Worker = tuple[str, int, int | None]
"""A deployment's name, and the attempt and port of its worker."""


@dataclass
class _Queue:
    """places: for requests that the worker may have at once. in_flight: those that it has, or that wait.

    trial: held by the request on trial. suspect: that request, once it is sent; culprit: the last that ended a worker in its
    trial, and which worker.
    """

    places: asyncio.Semaphore
    in_flight: int = 0
    trial: asyncio.Lock = field(default_factory=asyncio.Lock)
    suspect: "Trial | None" = None
    culprit: "tuple[Trial, Worker] | None" = None


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
        queue = self._queue(deployment)
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
        places = self._queue(deployment).places
        self._metrics.wait(deployment, 1)
        try:
            await places.acquire()
        finally:
            self._metrics.wait(deployment, -1)
        return Slot(places)

    async def begin_trial(self, deployment: Deployment) -> "Trial":
        """Return the trial of a request that is sent again, once it is its turn. It must end."""
        queue = self._queue(deployment)
        await queue.trial.acquire()
        return Trial(queue)

    def is_anothers_fault(self, deployment: Deployment, worker: Worker, trial: "Trial | None") -> bool:
        """Return whether a worker that left a request unanswered was ended by another one, in its trial."""
        queue = self._queue(deployment)
        suspects = [queue.suspect] if queue.suspect is not None else []
        suspects += [queue.culprit[0]] if queue.culprit is not None and queue.culprit[1] == worker else []
        return bool(suspects) and trial not in suspects

    def _queue(self, deployment: Deployment) -> _Queue:
        return self._queues.setdefault(_key(deployment), _Queue(asyncio.Semaphore(self._at_once)))


class Trial:
    """A request that is sent again, while nothing else is that was."""

    def __init__(self, queue: _Queue) -> None:
        self._queue = queue
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    def begin(self) -> None:
        """Watch the request, which is sent now, for `TRIAL_S`."""
        self._queue.suspect = self
        self._timer = asyncio.get_running_loop().call_later(TRIAL_S, self.end)

    def convict(self, worker: Worker) -> None:
        """Say that the request left its worker unable to answer, while it is watched."""
        if self._queue.suspect is self:
            self._queue.culprit = (self, worker)

    def end(self) -> None:
        """Let the next one go; idempotent."""
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._queue.suspect is self:
            self._queue.suspect = None
        self._queue.trial.release()


def _key(deployment: Deployment) -> tuple[str, str]:
    return deployment.endpoint, deployment.name
