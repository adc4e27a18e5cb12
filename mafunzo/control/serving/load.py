"""How many requests each deployment and each of its workers has now: the router counts, the supervisor reads."""

from collections import Counter

from mafunzo.entities.endpoint import Deployment


class Loads:
    """The load of all deployments, in memory only. Written by the router's thread; any other may read."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._most: dict[tuple[str, str], int] = {}
        self._busy: Counter[tuple[str, str]] = Counter()

    def enter(self, deployment: Deployment) -> int:
        """Count a request as one of a deployment; return how many it has now. `leave` must follow."""
        key = (deployment.endpoint, deployment.name)
        self._requests[key] += 1
        self._most[key] = max(self._most.get(key, 0), self._requests[key])
        return self._requests[key]

    def leave(self, deployment: Deployment) -> int:
        """Count a request as no deployment's any more; return how many it has left."""
        return _less(self._requests, (deployment.endpoint, deployment.name))

    def take(self, worker: Deployment) -> None:
        """Count a request as sent to a worker. `free` must follow."""
        self._busy[worker.endpoint, worker.worker] += 1

    def free(self, worker: Deployment) -> None:
        """Count a request as no worker's any more."""
        _less(self._busy, (worker.endpoint, worker.worker))

    def busy(self, worker: Deployment) -> int:
        """Return how many requests a worker has."""
        return self._busy.get((worker.endpoint, worker.worker), 0)

    def most(self, deployment: Deployment) -> int:
        """Return how many requests a deployment had at most at once since this was last called."""
        key = (deployment.endpoint, deployment.name)
        most = self._most.pop(key, 0)  # first: a request that comes meanwhile is in the number of now
        return max(most, self._requests.get(key, 0))

    def requests(self, deployment: Deployment) -> int:
        """Return how many requests a deployment has."""
        return self._requests.get((deployment.endpoint, deployment.name), 0)


def _less(counts: Counter[tuple[str, str]], key: tuple[str, str]) -> int:
    counts[key] -= 1
    left = counts[key]
    if not left:
        del counts[key]
    return left
