"""An online endpoint and its deployments, and what is requested of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from mafunzo.entities.adapter import Adapter, AdapterState, AdapterStatus
from mafunzo.entities.engine import Engine
from mafunzo.entities.rate_limit import RateLimit
from mafunzo.entities.reference import AssetReference
from mafunzo.entities.scale import ONE_INSTANCE, Scale
from mafunzo.entities.serving import Serving

DEFAULT_START_LIMIT_S = 600.0
DEFAULT_REQUEST_TIMEOUT_S = 90.0


class DeploymentStatus(StrEnum):
    """The life of a deployment's worker. `refused`: serving didn't equal training. `idle`: there is no worker until a request
    comes. `draining`: the worker gets no more requests and ends with its last."""

    WAITING = "waiting"
    STARTING = "starting"
    VERIFYING = "verifying"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    IDLE = "idle"
    DRAINING = "draining"
    REFUSED = "refused"
    FAILED = "failed"
    DELETING = "deleting"

    @property
    def is_settled(self) -> bool:
        return self in (DeploymentStatus.HEALTHY, DeploymentStatus.IDLE) or self.has_failed

    @property
    def has_failed(self) -> bool:
        return self in (DeploymentStatus.REFUSED, DeploymentStatus.FAILED)


@dataclass(frozen=True)
class Supervision:
    """What is remembered of a deployment's workers between two servers; times are seconds since the machine started.

    started_at, healthy_at: of the newest worker, 0 for not yet; was_healthy: whether any worker of it ever was.
    crashes: unasked ends in a row. retry_at: no start before. reason: why it waits, for people. memory: what the newest
    worker books, engine: what computes it, and why, both for people; booked_mb: without its adapters. is_woken: whether it
    starts because requests came.
    leaves_at: when a worker that gets no more requests ends, whatever it still answers.
    """

    started_at: float = 0.0
    healthy_at: float = 0.0
    was_healthy: bool = False
    crashes: int = 0
    retry_at: float = 0.0
    reason: str = ""
    memory: str = ""
    engine: str = ""
    is_woken: bool = False
    leaves_at: float = 0.0
    booked_mb: int = 0


@dataclass(frozen=True)
class ServedModel:
    """What a worker loads: a version of a model, `name:version`, the hash of its files, and of the base under an adapter."""

    model: str
    artifact: str
    base_artifact: str | None = None


@dataclass(frozen=True)
class Rollout:
    """A rolling update of a deployment: its workers are replaced one by one by workers of another version of its model.

    instances: how many workers there are to be meanwhile. error: why it is being taken back, or was; None while it goes on.
    """

    target: ServedModel
    previous: ServedModel
    instances: int = 1
    error: Mapping[str, Any] | None = None

    @property
    def wanted(self) -> ServedModel:
        """What the workers are to serve in the end."""
        return self.target if self.error is None else self.previous


@dataclass(frozen=True)
class Replica:
    """A further worker of a deployment, beside the one that the deployment's own fields describe. Each field is as there."""

    number: int
    model: str
    artifact: str
    base_artifact: str | None = None
    status: DeploymentStatus = DeploymentStatus.WAITING
    port: int | None = None
    attempt: int = 0
    verification: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    supervision: Supervision = Supervision()
    adapter_states: Mapping[str, AdapterState] = field(default_factory=dict)


@dataclass(frozen=True)
class Deployment:
    """One model behind an endpoint, served by worker processes.

    Its own fields describe the worker that can answer best, `replicas` the others; `number` tells a deployment's workers apart.

    model: `name:version`; artifact: the hash of its folder; base_artifact: of the base under an adapter, or None. port: the
    worker's loopback port once it runs. initial_delay_s: how long a worker may take to become healthy. request_timeout_s: the
    limit of one request. scale: how many workers it has. ttl_s: of its lease, which ends at `expires_at`, and the deployment
    with it, unless it is renewed; None for one that stays. verification: what the proof that serving equals training compared,
    and with what result. rollout: the update that goes on, or was taken back. logs_requests: whether prompts and answers are
    kept, as somebody asked for it. engine: what the user wants to compute it. adapters: what its workers serve beside its
    model, by name; adapter_states: what became of them on the worker. is_new: whether it never had all of its workers since it
    was made. echoes: what a way in keeps of a request's original body, under its own name, to answer with it; nothing else
    reads it.
    """

    endpoint: str
    name: str
    model: str
    artifact: str
    status: DeploymentStatus = DeploymentStatus.WAITING
    port: int | None = None
    attempt: int = 0
    initial_delay_s: float = DEFAULT_START_LIMIT_S
    request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S
    verification: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    created_by: str = ""
    created_at: datetime | None = None
    base_artifact: str | None = None
    supervision: Supervision = Supervision()
    echoes: Mapping[str, Any] = field(default_factory=dict)
    scale: Scale = ONE_INSTANCE
    ttl_s: float | None = None
    expires_at: datetime | None = None
    rollout: Rollout | None = None
    number: int = 0
    replicas: tuple[Replica, ...] = ()
    logs_requests: bool = False
    engine: Engine = Engine.AUTO
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    adapter_states: Mapping[str, AdapterState] = field(default_factory=dict)
    is_new: bool = False

    def leased(self, ttl_s: float | None, now: datetime) -> "Deployment":
        """Return the deployment with a lease from now on, or without one."""
        return replace(self, ttl_s=ttl_s, expires_at=None if ttl_s is None else now + timedelta(seconds=ttl_s))

    @property
    def served(self) -> ServedModel:
        """What its worker serves."""
        return ServedModel(self.model, self.artifact, self.base_artifact)

    @property
    def serving(self) -> Serving:
        """What gives the answers of its worker now."""
        return self.serving_of(None)

    def serving_of(self, adapter: str | None) -> Serving:
        """What gives the answers of one of its adapters, or of its own model."""
        deployed_at = "" if self.created_at is None else self.created_at.astimezone(UTC).isoformat()
        model, artifact, base = self.model, self.artifact, self.base_artifact
        if adapter is not None:
            served = self.adapters[adapter]
            model, artifact, base = served.model, served.artifact, base or artifact
        return Serving(self.endpoint, self.name, model, artifact, base, deployed_at)

    @property
    def servings(self) -> tuple[Serving, ...]:
        """What gives the answers of its worker: its own model, and each adapter."""
        return (self.serving, *map(self.serving_of, self.adapters))

    @property
    def models(self) -> frozenset[str]:
        """The versions of models that its workers serve, or are to serve when an update that goes on has ended or failed;
        those of its adapters too."""
        served = {worker.model for worker in self.workers} | {adapter.model for adapter in self.adapters.values()}
        if self.rollout is not None:
            served |= {self.rollout.wanted.model, self.rollout.previous.model}
        return frozenset(served)

    @property
    def has_all_workers(self) -> bool:
        """Whether as many workers are healthy as it has at least, one or more; or it is idle, as no request comes."""
        healthy = sum(worker.status is DeploymentStatus.HEALTHY for worker in self.workers)
        return self.status is DeploymentStatus.IDLE or healthy >= max(1, self.scale.min_instances)

    @property
    def worker(self) -> str:
        """The name of its worker, which no other of the endpoint has: `blue`, and `blue#2` for a second one."""
        return f"{self.name}#{self.number + 1}" if self.number else self.name

    @property
    def workers(self) -> "tuple[Deployment, ...]":
        """Its workers, each as a deployment with that one only."""
        if not self.replicas:
            return (self,)
        alone = replace(self, replicas=())
        workers = (alone, *(replace(alone, **_own_fields(replica)) for replica in self.replicas))
        if self.status is not DeploymentStatus.DELETING:
            return workers
        return tuple(replace(worker, status=DeploymentStatus.DELETING) for worker in workers)

    def adapter_state(self, name: str) -> AdapterState | None:
        """Return what became of an adapter on the worker; None where this version of it wasn't begun to be loaded."""
        adapter, state = self.adapters.get(name), self.adapter_states.get(name)
        if adapter is None or state is None or state.artifact != adapter.artifact:
            return None
        return state if state.attempt == self.attempt else None

    def adapter_status(self, name: str) -> AdapterStatus:
        """Return how an adapter stands on the worker."""
        state = self.adapter_state(name)
        return AdapterStatus.LOADING if state is None else state.status

    def offers(self, adapter: str) -> bool:
        """Return whether requests may name an adapter: it is live on a worker, or was and is loaded again."""
        statuses = {worker.adapter_status(adapter) for worker in self.workers}
        comes_back = self.adapters[adapter].was_live and AdapterStatus.LOADING in statuses
        return comes_back or AdapterStatus.LIVE in statuses

    def with_worker(self, worker: "Deployment") -> "Deployment":
        """Return the deployment with the state of one of its workers replaced, or with one more worker."""
        others = [other for other in self.workers if other.number != worker.number]
        return self._of([*others, worker])

    def without_worker(self, number: int) -> "Deployment | None":
        """Return the deployment without one of its workers, or None where it has no other."""
        others = [other for other in self.workers if other.number != number]
        return self._of(others) if others else None

    def leaving(self, leaves_at: float) -> "Deployment":
        """Return the deployment as it is deleted: each of its workers ends with its last request, or at `leaves_at`."""
        leaving = self
        for worker in self.workers:
            supervision = replace(worker.supervision, leaves_at=leaves_at)
            leaving = leaving.with_worker(replace(worker, supervision=supervision))
        return replace(leaving, status=DeploymentStatus.DELETING)

    def _of(self, workers: "Iterable[Deployment]") -> "Deployment":
        first, *others = sorted(workers, key=lambda worker: (_RANK[worker.status], worker.number))
        replicas = tuple(Replica(**_own_fields(other)) for other in others)
        return replace(self, **_own_fields(first), replicas=replicas)


_BEST_FIRST = (
    DeploymentStatus.HEALTHY,
    DeploymentStatus.VERIFYING,
    DeploymentStatus.UNHEALTHY,
    DeploymentStatus.STARTING,
    DeploymentStatus.WAITING,
    DeploymentStatus.IDLE,
    DeploymentStatus.DRAINING,
    DeploymentStatus.REFUSED,
    DeploymentStatus.FAILED,
    DeploymentStatus.DELETING,
)
_RANK: Mapping[DeploymentStatus, int] = {status: rank for rank, status in enumerate(_BEST_FIRST)}


def _own_fields(worker: Deployment | Replica) -> dict[str, Any]:
    """Return what a deployment's workers don't share."""
    return {own.name: getattr(worker, own.name) for own in fields(Replica)}


@dataclass(frozen=True)
class DeploymentRequest:
    """What a deployment is to be: a version of a model behind an endpoint.

    initial_delay_s: how long its worker may take to become healthy. request_timeout_s: the limit of one request.
    instance_type: a machine size, which has to exist, or empty. scale: how many workers; None for one, or as many as there are.
    ttl_s: of a lease, None for one without, or as it is. logs_requests: None as it is, or not at all. engine: what computes it;
    None: as it is, or auto. echoes: as a deployment's.
    """

    model: AssetReference
    initial_delay_s: float = DEFAULT_START_LIMIT_S
    request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S
    instance_type: str = ""
    echoes: Mapping[str, Any] = field(default_factory=dict)
    scale: Scale | None = None
    ttl_s: float | None = None
    logs_requests: bool | None = None
    engine: Engine | None = None


@dataclass(frozen=True)
class Endpoint:
    """A name that answers requests. `traffic_percent` maps a deployment to its share; keys live encrypted in the store.

    mirror_percent: of how many requests a copy goes to a deployment, whose answers are only compared. rate_limits: how much
    each caller may ask, by caller (`entities/rate_limit.py`).
    echoes: what a way in keeps of a request's original body, under its own name, to answer with it; nothing else reads it.
    """

    name: str
    traffic_percent: Mapping[str, int] = field(default_factory=dict)
    auth_mode: str = "key"
    tags: Mapping[str, str] = field(default_factory=dict)
    is_deleting: bool = False
    created_by: str = ""
    created_at: datetime | None = None
    echoes: Mapping[str, Any] = field(default_factory=dict)
    mirror_percent: Mapping[str, int] = field(default_factory=dict)
    rate_limits: Mapping[str, RateLimit] = field(default_factory=dict)


@dataclass(frozen=True)
class EndpointRequest:
    """What an endpoint is to be. traffic_percent, mirror_percent: by deployment; a new endpoint has none yet. echoes: as an
    endpoint's."""

    traffic_percent: Mapping[str, int] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    echoes: Mapping[str, Any] = field(default_factory=dict)
    mirror_percent: Mapping[str, int] = field(default_factory=dict)
