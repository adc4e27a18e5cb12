"""An online endpoint and its deployments, and what is requested of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from mafunzo.entities.reference import AssetReference

DEFAULT_START_LIMIT_S = 600.0
DEFAULT_REQUEST_TIMEOUT_S = 90.0


class DeploymentStatus(StrEnum):
    """The life of a deployment. `refused` means that serving didn't equal training."""

    WAITING = "waiting"
    STARTING = "starting"
    VERIFYING = "verifying"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    REFUSED = "refused"
    FAILED = "failed"
    DELETING = "deleting"

    @property
    def is_settled(self) -> bool:
        return self is DeploymentStatus.HEALTHY or self.has_failed

    @property
    def has_failed(self) -> bool:
        return self in (DeploymentStatus.REFUSED, DeploymentStatus.FAILED)


@dataclass(frozen=True)
class Supervision:
    """What is remembered of a deployment's workers between two servers; times are seconds since the machine started.

    started_at, healthy_at: of the newest worker, 0 for not yet; was_healthy: whether any worker of it ever was.
    crashes: unasked ends in a row. retry_at: no start before. reason: why it waits, for people. memory: what the newest
    worker books, for people.
    """

    started_at: float = 0.0
    healthy_at: float = 0.0
    was_healthy: bool = False
    crashes: int = 0
    retry_at: float = 0.0
    reason: str = ""
    memory: str = ""


@dataclass(frozen=True)
class Deployment:
    """One model behind an endpoint, served by a worker process.

    model: `name:version`; artifact: the hash of its folder; base_artifact: of the base under an adapter, or None. port: the
    worker's loopback port once it runs. initial_delay_s: how long a worker may take to become healthy. request_timeout_s: the
    limit of one request. verification: what the proof that serving equals training compared, and with what result.
    echoes: what a way in keeps of a request's original body, under its own name, to answer with it; nothing else reads it.
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


@dataclass(frozen=True)
class DeploymentRequest:
    """What a deployment is to be: a version of a model behind an endpoint.

    initial_delay_s: how long its worker may take to become healthy. request_timeout_s: the limit of one request.
    instance_type: a machine size, which has to exist, or empty. echoes: as a deployment's.
    """

    model: AssetReference
    initial_delay_s: float = DEFAULT_START_LIMIT_S
    request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S
    instance_type: str = ""
    echoes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Endpoint:
    """A name that answers requests. `traffic_percent` maps a deployment to its share; keys live encrypted in the store.

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


@dataclass(frozen=True)
class EndpointRequest:
    """What an endpoint is to be. traffic_percent: by deployment; a new endpoint has none yet. echoes: as an endpoint's."""

    traffic_percent: Mapping[str, int] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    echoes: Mapping[str, Any] = field(default_factory=dict)
