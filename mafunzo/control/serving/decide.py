"""What the supervisor does about each deployment and each of its workers now: pure functions from state to actions.

Supervision: a worker process that ends by itself, or hangs, is started again; nobody has to watch it.

A worker goes waiting -> starting -> verifying -> healthy. One that ends by itself is restarted with exponential back-off; one
of a deployment that never was healthy is given up after a few starts. Workers come and go with the load (`rescale`); one that
goes is draining first: it gets no more requests and ends with its last. A deployment whose last worker went so is idle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from mafunzo.control.serving.scale import is_proven, present
from mafunzo.entities.backoff import delay_s, is_over
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Rollout

MAX_FIRST_STARTS = 3
"""Starts of a worker that was never healthy, before its deployment has failed."""
STABLE_S = 300.0
"""A worker that was healthy for this long has made its earlier crashes forgotten."""
UNHEALTHY_PROBES = 3
"""Failed readiness probes in a row after which a worker gets no more requests."""
HUNG_PROBES = 12
"""Failed liveness probes in a row after which a worker is restarted."""

DRAIN_S = 600.0
"""The longest that a worker which gets no more requests may take for those that it has."""

Key = tuple[str, str]
"""Endpoint and worker."""


class Health(StrEnum):
    """What the last probe of a worker said."""

    UNKNOWN = "unknown"
    LOADING = "loading"
    READY = "ready"


@dataclass(frozen=True)
class Verdict:
    """The end of a verification: `faults` name what differs, and none means that the worker may go live.

    record: what was compared, memory with the deployment. broke: why the comparison couldn't be made, or empty.
    """

    faults: tuple[str, ...] = ()
    record: Mapping[str, Any] | None = None
    broke: str = ""


@dataclass(frozen=True)
class AdapterWork:
    """An adapter that is being loaded into a worker and proven, or unloaded; verdict: its end. artifact: of its files."""

    name: str
    artifact: str
    is_unloading: bool = False
    verdict: Verdict | None = None


@dataclass(frozen=True)
class WorkerState:
    """What is seen of a worker of a deployment.

    ended: how it ended, in words; empty while it runs and before the first start. is_final: another start wouldn't help.
    port: where it listens, once it does. failed_probes: how many probes failed in a row.
    is_verifying: whether a comparison is under way; verdict: its end. requests: how many it answers. adapter_work: what is
    being done about one of its adapters, or was.
    """

    is_running: bool = False
    ended: str = ""
    is_final: bool = False
    port: int | None = None
    health: Health = Health.UNKNOWN
    failed_probes: int = 0
    is_verifying: bool = False
    verdict: Verdict | None = None
    requests: int = 0
    adapter_work: AdapterWork | None = None


@dataclass(frozen=True)
class OfDeployment:
    """What is to be done about one worker of a deployment, which is that deployment with this worker alone."""

    deployment: Deployment


class Start(OfDeployment):
    """Take a lease and start a worker."""


@dataclass(frozen=True)
class Verify(OfDeployment):
    """Begin to compare the worker with the tuned model."""

    port: int


@dataclass(frozen=True)
class MarkHealthy(OfDeployment):
    """Send requests to the worker. `record` is what the verification compared; None keeps the one that is there."""

    port: int
    record: Mapping[str, Any] | None


@dataclass(frozen=True)
class MarkUnhealthy(OfDeployment):
    """Send the worker no more requests; it still runs."""

    reason: str


@dataclass(frozen=True)
class Restart(OfDeployment):
    """The worker ended by itself or hangs: end what is left of it, and start another at `retry_at`."""

    reason: str
    crashes: int
    retry_at: float


@dataclass(frozen=True)
class Refuse(OfDeployment):
    """Serving doesn't equal training: end the worker."""

    faults: tuple[str, ...]
    record: Mapping[str, Any] | None


@dataclass(frozen=True)
class Fail(OfDeployment):
    """Give the deployment up: end the worker."""

    reason: str


class Stop(OfDeployment):
    """End a worker that shouldn't run."""


class Remove(OfDeployment):
    """Nothing runs any more of a deployment that is being deleted: forget it."""


class Drop(OfDeployment):
    """A worker that wasn't needed any more has ended: forget it, or have its deployment idle where it has no other."""


class Wake(OfDeployment):
    """A request waits for an idle deployment: give it a worker."""


@dataclass(frozen=True)
class Add(OfDeployment):
    """Give a deployment, named with all its workers, one more: the one of `number`."""

    number: int


@dataclass(frozen=True)
class TakeBack(OfDeployment):
    """A worker of the version that a deployment is updated to has failed, so that the others stay as they were.

    error: why, as the worker's record has it.
    """

    error: Mapping[str, Any]


class EndRollout(OfDeployment):
    """All workers of a deployment are of the version that it is updated to."""


@dataclass(frozen=True)
class Retire(OfDeployment):
    """Send a worker no more requests: it ends with its last, or at `leaves_at`."""

    leaves_at: float


OfWorker = Start | Verify | MarkHealthy | MarkUnhealthy | Restart | Refuse | Fail | Stop | Remove | Drop
Action = OfWorker | Wake | Add | Retire | TakeBack | EndRollout


def decide(deployments: Sequence[Deployment], workers: Mapping[Key, WorkerState], now: float) -> list[Action]:
    """Return at most one action for each worker; a worker without a state in `workers` was never started."""
    each = [worker for deployment in deployments for worker in deployment.workers]
    actions = [_decide_one(one, workers.get((one.endpoint, one.worker), WorkerState()), now) for one in each]
    return [action for action in actions if action is not None]


def rescale(deployment: Deployment, instances: int, now: float) -> Action | None:
    """Return the next action that brings a deployment to so many workers; None where it has them, or can't have them now."""
    if deployment.status is DeploymentStatus.DELETING or deployment.status.has_failed:
        return None
    if deployment.rollout is not None and deployment.rollout.error is None:
        return _roll_on(deployment, deployment.rollout, now)
    wanted = wanted_artifact(deployment)
    if leaving := [one for one in present(deployment) if one.artifact != wanted and len(present(deployment)) > 1]:
        return Retire(leaving[-1], now + DRAIN_S)
    workers = present(deployment)
    if not is_proven(deployment) and instances >= len(workers) > 0:
        return None  # what is wrong with its model would end each of them
    if len(workers) < instances:
        idle = next((one for one in deployment.workers if one.status is DeploymentStatus.IDLE), None)
        return Wake(idle) if idle is not None else Add(deployment, _free_number(deployment))
    if len(workers) > instances and is_proven(deployment):
        return Retire(workers[-1], now + DRAIN_S)  # they stand with the best first
    return None


def _roll_on(deployment: Deployment, rollout: Rollout, now: float) -> Action | None:
    """Return the next step of a rolling update: one worker more than there are to be, then one of the old ones less."""
    new = [one for one in present(deployment) if one.artifact == rollout.target.artifact]
    old = [one for one in present(deployment) if one.artifact != rollout.target.artifact]
    if failed := next((one for one in new if one.status.has_failed), None):
        return TakeBack(deployment, failed.error or {})
    count, instances = len(new) + len(old), rollout.instances
    if len(new) < instances and count <= instances:
        return Add(deployment, _free_number(deployment))
    if old and count > instances and all(one.status is DeploymentStatus.HEALTHY for one in new):
        return Retire(old[-1], now + DRAIN_S)
    is_over = all(one.artifact == rollout.target.artifact for one in deployment.workers)
    return EndRollout(deployment) if is_over else _forget_idle(deployment, new)


def _forget_idle(deployment: Deployment, new: Sequence[Deployment]) -> Action | None:
    """Return what takes the place of an idle worker of the old version away, once there is a new worker that answers."""
    is_answering = any(one.status is DeploymentStatus.HEALTHY for one in new)
    idle = (one for one in deployment.workers if one.status is DeploymentStatus.IDLE)
    return next((Drop(one) for one in idle), None) if is_answering else None


def wanted_artifact(deployment: Deployment) -> str:
    """Return the hash of the model that the workers of a deployment are to serve."""
    return deployment.artifact if deployment.rollout is None else deployment.rollout.wanted.artifact


def expired(deployments: Sequence[Deployment], moment: datetime) -> list[Deployment]:
    """Return the deployments whose lease has ended: they are to be deleted."""
    leased = [one for one in deployments if one.status is not DeploymentStatus.DELETING]
    return [one for one in leased if one.expires_at is not None and one.expires_at <= moment]


def completed(deployments: Sequence[Deployment]) -> list[Deployment]:
    """Return the new deployments that have all of their workers now."""
    return [one for one in deployments if one.is_new and one.has_all_workers]


def _free_number(deployment: Deployment) -> int:
    numbers = {worker.number for worker in deployment.workers}
    return next(number for number in range(len(numbers) + 1) if number not in numbers)


def _decide_one(deployment: Deployment, worker: WorkerState, now: float) -> Action | None:
    match deployment.status:
        case DeploymentStatus.DELETING:
            return _end(deployment, worker, now) if worker.is_running else Remove(deployment)
        case DeploymentStatus.DRAINING:
            return _end(deployment, worker, now) if worker.is_running else Drop(deployment)
        case DeploymentStatus.REFUSED | DeploymentStatus.FAILED | DeploymentStatus.IDLE:
            return Stop(deployment) if worker.is_running else None
        case DeploymentStatus.WAITING:
            if worker.is_running:  # of an earlier model
                return Stop(deployment)
            return Start(deployment) if is_over(deployment.supervision.retry_at - now) else None
        case DeploymentStatus.STARTING | DeploymentStatus.VERIFYING:
            return _bring_up(deployment, worker, now)
        case DeploymentStatus.HEALTHY | DeploymentStatus.UNHEALTHY:
            return _keep_up(deployment, worker, now)


def _end(deployment: Deployment, worker: WorkerState, now: float) -> Action | None:
    """End a worker that gets no more requests, once it has answered those that it has, or their time is over."""
    rest_s = deployment.supervision.leaves_at - now
    is_waited_for = worker.requests > 0 and 0 < rest_s <= DRAIN_S  # more can't be left: the clock began anew
    return None if is_waited_for else Stop(deployment)


def _bring_up(deployment: Deployment, worker: WorkerState, now: float) -> Action | None:
    if not worker.is_running:
        return _after_end(deployment, worker, now)
    verdict = worker.verdict
    if verdict is not None and verdict.faults:
        return Refuse(deployment, verdict.faults, verdict.record)
    if verdict is not None and not verdict.broke:
        assert worker.port is not None
        return MarkHealthy(deployment, worker.port, verdict.record)
    memory = deployment.supervision
    if memory.healthy_at == 0 and now - memory.started_at > deployment.initial_delay_s:
        return Fail(deployment, _too_slow(deployment, worker))
    if worker.port is not None and worker.health is Health.READY and not worker.is_verifying:
        return Verify(deployment, worker.port)
    return None


def _too_slow(deployment: Deployment, worker: WorkerState) -> str:
    doing = "it was still loading its model"
    if worker.is_verifying:
        doing = "the proof that it answers as in evaluation hadn't ended"
    if worker.verdict is not None and worker.verdict.broke:
        doing = f"the proof that it answers as in evaluation broke: {worker.verdict.broke}"
    return (
        f"The worker wasn't healthy after {deployment.initial_delay_s:g} s: {doing}. See its log. Serve a smaller model, or "
        "allow more time: --timeout, or the liveness probe's initial_delay, period and failure_threshold."
    )


def _keep_up(deployment: Deployment, worker: WorkerState, now: float) -> Action | None:
    if not worker.is_running:
        return _after_end(deployment, worker, now)
    if worker.failed_probes >= HUNG_PROBES:
        return _restart(deployment, f"it didn't answer {worker.failed_probes} probes in a row", now)
    is_healthy = deployment.status is DeploymentStatus.HEALTHY
    if is_healthy and worker.failed_probes >= UNHEALTHY_PROBES:
        return MarkUnhealthy(deployment, f"It didn't answer {worker.failed_probes} probes in a row.")
    if not is_healthy and worker.health is Health.READY and worker.port is not None:
        return MarkHealthy(deployment, worker.port, None)
    return None


def _after_end(deployment: Deployment, worker: WorkerState, now: float) -> Action:
    how = worker.ended or "it is gone without a record of its end"
    memory = deployment.supervision
    if not memory.was_healthy and worker.is_final:
        return Fail(deployment, f"The worker refused to start: {how}.")
    if not memory.was_healthy and memory.crashes + 1 >= MAX_FIRST_STARTS:
        return Fail(deployment, f"The worker ended {MAX_FIRST_STARTS} times before it was healthy, at last so: {how}.")
    return _restart(deployment, how, now)


def _restart(deployment: Deployment, how: str, now: float) -> Restart:
    memory = deployment.supervision
    was_stable = memory.healthy_at > 0 and now - memory.healthy_at > STABLE_S
    crashes = 1 if was_stable else memory.crashes + 1
    wait_s = delay_s(crashes)
    return Restart(deployment, f"The worker ended: {how}. It starts again in {wait_s:g} s.", crashes, now + wait_s)
