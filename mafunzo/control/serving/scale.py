"""How many workers a deployment needs by its load, and which of them come and go for it: pure.

More load starts workers at once. Fewer are left only after a lull: for as long as `idle_s`, fewer would have done all the time.
"""

import math
from dataclasses import dataclass

from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from mafunzo.entities.scale import Scale


@dataclass(frozen=True)
class Lull:
    """A time in which fewer workers would have done, since a moment; `most` is the most that were needed in it."""

    since: float
    most: int


def needed(scale: Scale, requests: int, requests_at_once: int) -> int:
    """Return how many workers so many requests at once need, of which each answers `requests_at_once` together."""
    by_load = math.ceil(requests * 100 / (scale.target_percent * requests_at_once))
    return max(scale.min_instances, min(scale.max_instances, by_load))


def lull_now(lull: Lull | None, need: int, instances: int, now: float) -> Lull | None:
    """Return the lull that goes on or begins now; None where all workers are needed."""
    if need >= instances:
        return None
    return Lull(now, need) if lull is None else Lull(lull.since, max(lull.most, need))


def instances_now(scale: Scale, instances: int, need: int, lull: Lull | None, now: float) -> int:
    """Return how many workers there should be, of a deployment that has `instances`."""
    if need > instances:
        return need
    if lull is not None and now - lull.since >= scale.idle_s:
        instances = lull.most
    return max(scale.min_instances, min(scale.max_instances, instances))


def present(deployment: Deployment) -> tuple[Deployment, ...]:
    """Return the workers that there are or will be: neither ended for want of requests, nor about to."""
    absent = (DeploymentStatus.IDLE, DeploymentStatus.DRAINING)
    return tuple(worker for worker in deployment.workers if worker.status not in absent)


def is_proven(deployment: Deployment) -> bool:
    """Return whether any worker of a deployment was ever healthy: only then it is worth to start more."""
    return any(worker.supervision.was_healthy for worker in deployment.workers)
