"""The requests of each deployment: those that its workers have, and those that wait in the order in which they came,
where those of several callers take turns.

All that wait stand in one line, whichever worker will be free first: the first of it takes a place with the least busy worker.

Whose fault it was. A worker that dies leaves all its requests unanswered, and one of them may have killed it. Sent again
together, that one would kill the next worker too, and all with it. So those that are sent again go one after the other: each is
on trial for a moment, and what ends a worker in its trial is to blame alone; the others are sent once more.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from mafunzo.control.serving.load import Loads
from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.control.serving.turn import Turns
from mafunzo.entities.endpoint import Deployment

TRIAL_S = 1.0
"""How long a request that is sent again is watched before the next one goes."""
LOOK_S = 0.1
"""How often the deployments are looked at for requests that wait for a worker."""
Worker = tuple[str, int, int | None]
"""A deployment's name, and the attempt and port of its worker."""
Live = Callable[[], Awaitable[Sequence[Deployment]]]
"""Reads which workers of a deployment take requests now."""


@dataclass
class _Queue:
    """turns: of those that wait for a worker; the first looks for one. freed: set when a worker has a place again.
    callers: how many requests each caller has.

    trial: held by the request on trial. suspect: that request, once it is sent; culprit: the last that ended a worker in its
    trial, and which worker.
    """

    turns: Turns = field(default_factory=Turns)
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    callers: Counter[str] = field(default_factory=Counter)
    trial: asyncio.Lock = field(default_factory=asyncio.Lock)
    suspect: "Trial | None" = None
    culprit: "tuple[Trial, Worker] | None" = None


class NoWorker(Exception):
    """None of a deployment's workers takes requests any more."""


class Slot:
    """A place of a request with a worker, until it is freed."""

    def __init__(self, worker: Deployment, loads: Loads, queue: _Queue) -> None:
        self.worker, self._loads, self._queue = worker, loads, queue
        self._is_free = False
        loads.take(worker)

    def free(self) -> None:
        """Let the next request in; idempotent."""
        if not self._is_free:
            self._is_free = True
            self._loads.free(self.worker)
            self._queue.freed.set()


class Queues:
    """The queues of all deployments. requests_at_once: how many requests a worker has. loads: where they are counted."""

    def __init__(self, requests_at_once: int, metrics: RequestMetrics, loads: Loads) -> None:
        self._at_once, self._metrics, self.loads = requests_at_once, metrics, loads
        self._queues: dict[tuple[str, str], _Queue] = {}

    def enter(self, deployment: Deployment, caller: str = "") -> int:
        """Count a caller's request as one of a deployment; return how many it has now. `leave` must follow."""
        self._queue(deployment).callers[caller] += 1
        return self.loads.enter(deployment)

    def leave(self, deployment: Deployment, caller: str = "") -> None:
        """Count a caller's request as no deployment's any more."""
        callers = self._queue(deployment).callers
        callers[caller] -= 1
        if not callers[caller]:
            del callers[caller]
        if not self.loads.leave(deployment):
            self._queues.pop(_key(deployment), None)

    def has_room(self, deployment: Deployment, caller: str, most: int) -> bool:
        """Return whether a caller's request, counted already, is one of those that a deployment may have: `most`.

        Where others have taken all of it, a caller still has the share that it would have if all had the same.
        """
        callers = self._queue(deployment).callers
        return callers.total() <= most or callers[caller] <= most // len(callers)

    async def take(self, deployment: Deployment, live: Live | None = None, caller: str = "") -> Slot:
        """Return a place with the least busy of a deployment's workers, once it is this request's turn. It must be freed.

        Callers take turns. live: the workers to choose from, read when it is this one's turn; by default the one that
        `deployment` describes. Raises `NoWorker`.
        """
        queue = self._queue(deployment)
        self._metrics.wait(deployment, 1)
        try:
            async with queue.turns.of(caller):
                while workers := [deployment] if live is None else await live():
                    worker = min(workers, key=self.loads.busy)
                    if self.loads.busy(worker) < self._at_once:
                        return Slot(worker, self.loads, queue)
                    await _freed(queue)
        finally:
            self._metrics.wait(deployment, -1)
        raise NoWorker

    def take_now(self, workers: Sequence[Deployment]) -> Slot | None:
        """Return a place with the least busy of a deployment's workers, or None where none is free. It must be freed."""
        worker = min(workers, key=self.loads.busy)
        if self.loads.busy(worker) >= self._at_once:
            return None
        return Slot(worker, self.loads, self._queue(worker))

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
        return self._queues.setdefault(_key(deployment), _Queue())


async def _freed(queue: _Queue) -> None:
    """Wait until a worker has a place again, or a moment: there may be another worker by then."""
    queue.freed.clear()
    try:
        async with asyncio.timeout(LOOK_S):
            await queue.freed.wait()
    except TimeoutError:
        pass


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
