"""Endpoints: a name that answers requests, its keys and traffic, and taking it away again."""

from __future__ import annotations

import dataclasses
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from mafunzo.control.launcher.steady_clock import steady_s
from mafunzo.control.serving import mirror_log
from mafunzo.control.serving.quota import quota_file, read_file
from mafunzo.control.serving.worker_folder import last_log
from mafunzo.control.workspace.chat_client import ChatClient
from mafunzo.control.workspace.liveness import require_server_for_deployment
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.traffic_share import rebalanced, require_shares
from mafunzo.entities.duration import age_of
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint, EndpointRequest
from mafunzo.entities.mirror import MirrorReport, report_of, require_mirror
from mafunzo.entities.rate_limit import EVERYBODY, DayUsage, RateLimit, require_rate_limit
from mafunzo.entities.verification import Proof, last_proofs
from mafunzo.errors import Conflict, InvalidParameter, NotFound, TimedOut, WorkerFailed, from_record

NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,30}[A-Za-z0-9]")
"""Of endpoints and deployments: 3 to 32 letters, digits and hyphens, a letter first, no hyphen last."""
MIN_TTL_S, MAX_TTL_S = 60.0, 10 * 366 * 24 * 3600.0
NEVER = "never"
"""The ttl of what has no lease."""
DRAIN_S = 30.0
"""The longest that a deployment which is being deleted goes on answering the requests that it has."""
Lines = list[str]  # a class below has a verb called list
Deployed = list[Deployment]


@dataclass(frozen=True)
class KeyedEndpoint:
    """An endpoint with its primary and secondary key and its deployments."""

    endpoint: Endpoint
    keys: tuple[str, str]
    deployments: tuple[Deployment, ...]


class Endpoints:
    """The verbs on endpoints and their deployments."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def list(self, limit: int | None = None, after: str | None = None) -> list[Endpoint]:
        """Return the endpoints by name: all, or `limit` of those whose names come after a name."""
        return self._services.records.endpoints.page(limit, after)

    def with_keys(self) -> Iterator[KeyedEndpoint]:
        """Yield every endpoint with what a request to it is checked against and passed on by."""
        deployments: defaultdict[str, Deployed] = defaultdict(list)
        for deployment in self._services.records.deployments.list():
            deployments[deployment.endpoint].append(deployment)
        keys = self._services.records.endpoints.all_keys()
        for endpoint in self.list():
            if endpoint.name in keys:  # else it was made since they were read
                yield KeyedEndpoint(endpoint, keys[endpoint.name], tuple(deployments[endpoint.name]))

    def get(self, name: str) -> EndpointHandle:
        """Return an endpoint by name; raises `NotFound`."""
        self._services.records.endpoints.get(name)
        return EndpointHandle(self._services, name)

    def create(self, name: str, request: EndpointRequest | None = None) -> EndpointHandle:
        """Make an endpoint with two new keys and no deployment, or change the traffic and tags of the one of that name.

        Raises `InvalidParameter` for traffic to what isn't there.
        """
        request, handle = request or EndpointRequest(), EndpointHandle(self._services, name)
        endpoints = self._services.records.endpoints
        if not self.has(name):
            if request.traffic_percent or any(request.mirror_percent.values()):
                raise InvalidParameter(
                    f"Endpoint {name} is new, so that no deployment can get traffic yet. Set it later."
                )
            require_name("endpoint", name)
            new = Endpoint(name, created_by=self._services.user, created_at=datetime.now(UTC))
            endpoints.add(new, keys=(_new_key(), _new_key()))
        require_mirror(name, [one.name for one in handle.deployments], request.mirror_percent)
        handle.set_traffic(request.traffic_percent)
        handle.set_mirror(request.mirror_percent)
        echoes = {**handle.endpoint.echoes, **request.echoes}
        endpoints.update(dataclasses.replace(handle.endpoint, tags=request.tags, echoes=echoes))
        return handle

    def has(self, name: str) -> bool:
        """Return whether an endpoint has that name."""
        return self.find(name) is not None

    def find(self, name: str) -> Endpoint | None:
        """Return an endpoint by name, or None."""
        return self._services.records.endpoints.find_named(name)


class EndpointHandle:
    """An endpoint that exists."""

    def __init__(self, services: Services, name: str) -> None:
        self._services = services
        self.name = name

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r})"

    @property
    def endpoint(self) -> Endpoint:
        return self._services.records.endpoints.get(self.name)

    @property
    def deployments(self) -> list[Deployment]:
        return self._services.records.deployments.list(self.name)

    @property
    def keys(self) -> tuple[str, str]:
        """The primary and the secondary key."""
        return self._services.records.endpoints.keys(self.name)

    @property
    def url(self) -> str:
        """Where OpenAI's SDK finds it (`base_url`), with `model` naming the endpoint."""
        return f"{self._services.up().url}/v1"

    def wait(self, deployment: str, timeout_s: float) -> Deployment:
        """Return the deployment once it is healthy, with as many workers as it has at least.

        Raises what a worker failed with, `TimedOut`, or `ServerFailed`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            current = self._services.records.deployments.get(self.name, deployment)
            needed = max(1, current.scale.min_instances)
            healthy = [one for one in current.workers if one.status is DeploymentStatus.HEALTHY]
            if current.status is DeploymentStatus.IDLE or len(healthy) >= needed:
                return current
            if failed := next((one for one in current.workers if one.status.has_failed), None):
                raise from_record(failed.error, WorkerFailed("The worker failed."))
            if time.monotonic() > deadline:
                count = f" with {len(healthy)} of {needed} workers" if needed > 1 else ""
                raise TimedOut(
                    f"Deployment {self.name}/{deployment} is still {current.status}{count} after {timeout_s:g} s. "
                    f"{_why_waiting(current)}{self._last_words(deployment)}Allow more with --timeout."
                )
            require_server_for_deployment(self._services, current)
            time.sleep(0.1)

    def wait_for_update(self, deployment: str, timeout_s: float) -> Deployment:
        """Return the deployment once its rolling update has ended.

        Raises what the new version's worker failed with, `TimedOut`, or `ServerFailed`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            current = self._services.records.deployments.get(self.name, deployment)
            if current.rollout is None:
                return current
            if current.rollout.error is not None:
                raise from_record(current.rollout.error, WorkerFailed("The worker of the new version failed."))
            if time.monotonic() > deadline:
                statuses = ", ".join(f"{one.worker} with {one.model} is {one.status}" for one in current.workers)
                raise TimedOut(
                    f"The update of {self.name}/{deployment} isn't over after {timeout_s:g} s: {statuses}. "
                    f"{_why_waiting(current)}It goes on."
                )
            require_server_for_deployment(self._services, current)
            time.sleep(0.1)

    def chat(self, messages: Sequence[Mapping[str, Any]], deployment: str | None = None, **parameters: Any) -> str:
        """Return the reply to `messages`; `parameters` are OpenAI's (`temperature`, `max_tokens` ...)."""
        return self._client(deployment).chat(messages, **parameters)

    def stream(
        self, messages: Sequence[Mapping[str, Any]], deployment: str | None = None, **parameters: Any
    ) -> Iterator[str]:
        """Yield the reply piece by piece, as the model writes it."""
        yield from self._client(deployment).stream(messages, **parameters)

    def invoke(self, body: Mapping[str, Any], deployment: str | None = None) -> dict[str, Any]:
        """Send OpenAI's request as it is; return its JSON answer.

        Raises `Unauthorized`, `InvalidParameter`, `NotFound`, `TimedOut` or `WorkerFailed`.
        """
        return self._client(deployment).invoke(body)

    def regenerate_key(self, which: str = "primary") -> str:
        """Replace one key by a new one, at once; return it."""
        if which not in ("primary", "secondary"):
            raise InvalidParameter(f"'{which}' isn't a key, expected primary or secondary.")
        primary, secondary = self.keys
        new = _new_key()
        both = (new, secondary) if which == "primary" else (primary, new)
        self._services.records.endpoints.set_keys(self.name, both)
        return new

    def set_traffic(self, traffic_percent: Mapping[str, int]) -> None:
        """Split the requests over deployments; the shares add up to 100, or to 0 for none.

        Raises `InvalidParameter` for shares that can't be, `Conflict` for more traffic to a deployment that can't answer.
        """
        require_shares(self.endpoint, self.deployments, traffic_percent)
        self._write_traffic(traffic_percent)

    def _write_traffic(self, traffic_percent: Mapping[str, int]) -> None:
        shares = {name: share for name, share in traffic_percent.items() if share}
        self._services.records.endpoints.update(dataclasses.replace(self.endpoint, traffic_percent=shares))

    def verify(self, deployment: str | None = None, timeout_s: float = 300.0) -> list[Proof]:
        """Prove again that each worker, and each adapter on it, answers as its model did in evaluation; return how each stands.

        They go on answering meanwhile. One that can't be asked, or differs, has a row that says why, and hides no other; one
        that differs is taken out of service. What was compared is kept (`proofs`). timeout_s: the longest that a worker may
        take for one answer of the comparison. Raises `NotFound` where there is no such deployment, or none at all.
        """
        from mafunzo.control.workspace.proofs import prove  # httpx, and schemas made with pydantic

        chosen = self._chosen(deployment)
        if not chosen:
            raise NotFound(f"Endpoint {self.name} has no deployment to verify. Make one: mafunzo deploy")
        return prove(self._services, chosen, timeout_s)

    def proofs(self, deployment: str | None = None) -> list[Proof]:
        """Return how each worker, and each adapter on it, stood when it was compared last; raises `NotFound`."""
        return last_proofs(self._chosen(deployment))

    def _chosen(self, deployment: str | None) -> Deployed:
        if deployment is None:
            return self.deployments
        return [self._services.records.deployments.get(self.name, deployment)]

    def logs(self, deployment: str | None = None, lines: int = 50) -> dict[str, str]:
        """Return the end of each worker's log, and of a deployment that failed also why."""
        logs = {}
        for each in self.deployments:
            if deployment in (None, each.name):
                log = [*last_log(self._services.home, each, lines), *_why_failed(each)]
                logs[each.name] = "\n".join(log[-lines:])
        return logs

    def begin_delete(self) -> None:
        """Ask for the endpoint and its deployments to go, and return at once."""
        self._services.records.endpoints.update(dataclasses.replace(self.endpoint, is_deleting=True))
        self._services.up()

    def delete(self, timeout_s: float = 60.0) -> None:
        """Delete the endpoint and its deployments; return once their processes, ports and memory are free."""
        self.begin_delete()
        endpoints = self._services.records.endpoints
        _await_end(f"Endpoint {self.name}", timeout_s, lambda: endpoints.find_named(self.name) is not None)

    def set_mirror(self, mirror_percent: Mapping[str, int]) -> None:
        """Send a copy of so many percent of the requests to one deployment; `mirror_report` says how its answers compare.

        Of the clients nobody notices. Raises `InvalidParameter` for shares that can't be, and for several mirrors.
        """
        require_mirror(self.name, [one.name for one in self.deployments], mirror_percent)
        shares = {name: share for name, share in mirror_percent.items() if share}
        self._services.records.endpoints.update(dataclasses.replace(self.endpoint, mirror_percent=shares))

    def mirror_report(self, deployment: str | None = None) -> MirrorReport:
        """Return how the answers of a mirror compare with those that the clients got; by default of the present mirror.

        Raises `NotFound` without a mirror or that deployment.
        """
        name = deployment or next(iter(self.endpoint.mirror_percent), None)
        if name is None:
            raise NotFound(
                f"Endpoint {self.name} has no mirror. Make one: mafunzo endpoint mirror {self.name} DEPLOYMENT=PERCENT"
            )
        self._services.records.deployments.get(self.name, name)
        return report_of(name, mirror_log.read(self._services.home, self.name, name))

    def set_rate_limit(self, limit: RateLimit | None, caller: str = EVERYBODY) -> Endpoint:
        """Limit how much a caller may ask in a minute and in a day, at once; return the endpoint.

        None takes the caller's own limit away.

        caller: `default` (each that has none of its own), `primary` or `secondary` (a key), `general` (the key of all
        endpoints), or `user:NAME`. Raises `InvalidParameter` for what can't be, `NotFound` where there is none to take away.
        """
        require_rate_limit(caller, limit or RateLimit())
        current = self.endpoint
        limits = {name: one for name, one in current.rate_limits.items() if name != caller}
        if limit is None and caller not in current.rate_limits:
            raise NotFound(f"Endpoint {self.name} has no limit of '{caller}'.")
        if limit is not None:
            limits[caller] = limit
        changed = dataclasses.replace(current, rate_limits=limits)
        self._services.records.endpoints.update(changed)
        return changed

    def used_today(self) -> list[DayUsage]:
        """Return what each caller has used of its quotas today (UTC)."""
        today = datetime.now(UTC).date().isoformat()
        usages = read_file(quota_file(self._services.home))
        return [usage for usage in usages if (usage.endpoint, usage.day) == (self.name, today)]

    def renew(self, deployment: str | None = None, ttl: str | float | None = None) -> Deployed:
        """Have the lease of a deployment, or of each that has one, begin again; return them. `ttl`: as of `Workspace.deploy`.

        Without `ttl` it lasts as long as before; with the ttl `never`, it ends no more. Raises `InvalidParameter` where there
        is no lease and no `ttl` for one, `NotFound`.
        """
        records = self._services.records.deployments
        length_s = None if ttl is None or ttl == NEVER else ttl_of(ttl)
        chosen = self.deployments if deployment is None else [records.get(self.name, deployment)]
        if ttl is None:
            chosen = [one for one in chosen if one.ttl_s is not None]
        if not chosen:
            what = f"Endpoint {self.name}" if deployment is None else f"Deployment {self.name}/{deployment}"
            raise InvalidParameter(f"{what} has no lease to renew. Give it one: --ttl 4h.", param="ttl")
        now = datetime.now(UTC)
        renewed: Deployed = []
        for one in chosen:
            renew = partial(Deployment.leased, ttl_s=one.ttl_s if ttl is None else length_s, now=now)
            renewed += filter(None, [records.change(self.name, one.name, renew)])
        self._services.up()  # it looks when leases end
        return renewed

    def begin_delete_deployment(self, name: str) -> None:
        """Ask for a deployment to go, and return at once. Raises `NotFound`, and `Conflict` for one that has traffic."""
        records = self._services.records
        current = records.deployments.get(self.name, name)
        if share := self.endpoint.traffic_percent.get(name):
            raise Conflict(
                f"Deployment {self.name}/{name} has {share} percent of the traffic. Set its traffic to 0, then delete it."
            )
        mirrors = {other: percent for other, percent in self.endpoint.mirror_percent.items() if other != name}
        records.endpoints.update(dataclasses.replace(self.endpoint, mirror_percent=mirrors))
        leaves_at = steady_s() + min(current.request_timeout_s, DRAIN_S)
        records.deployments.change(self.name, name, lambda stored: stored.leaving(leaves_at))
        self._services.up()

    def delete_deployment(self, name: str, timeout_s: float = 60.0) -> None:
        """Delete one deployment; return once its process, port and memory are free. Its traffic goes to the others.

        Raises `NotFound`, and `TimedOut` when its worker doesn't end.
        """
        before = self.endpoint.traffic_percent
        if before.get(name):
            self._services.records.deployments.get(self.name, name)
            self._write_traffic(rebalanced(before, name, 0))
        self.begin_delete_deployment(name)
        _await_end(f"Deployment {self.name}/{name}", timeout_s, lambda: name in {one.name for one in self.deployments})

    def _last_words(self, deployment: str) -> str:
        """Return the end of a worker's log as a sentence, or an empty text."""
        lines = self.logs(deployment, 1).get(deployment, "").strip()
        return f"Its log ends with: {lines}. " if lines else ""

    def _client(self, deployment: str | None) -> ChatClient:
        return ChatClient(self.url, self.name, self.keys[0], deployment)


def _why_waiting(deployment: Deployment) -> str:
    """Return what a worker waits for as a sentence, or an empty text."""
    waiting = (one for one in deployment.workers if one.status is DeploymentStatus.WAITING and one.supervision.reason)
    return next((f"{one.supervision.reason} " for one in waiting), "")


def _new_key() -> str:
    return secrets.token_urlsafe(32)


def ttl_of(ttl: str | float) -> float:
    """Return the seconds of a lease, written as a number of them or like `4h`; raises `InvalidParameter`."""
    try:
        ttl_s = age_of(ttl) if isinstance(ttl, str) else float(ttl)
    except InvalidParameter as error:
        raise InvalidParameter(
            f"The ttl is '{ttl}', expected a length of time such as 30m, 4h or 2d.", param="ttl"
        ) from error
    if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
        raise InvalidParameter(f"The ttl is {ttl}, expected 1 minute to 10 years.", param="ttl")
    return ttl_s


def require_name(kind: str, name: str) -> None:
    """Raise `InvalidParameter` for what can't be the name of an endpoint or a deployment."""
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            f"The {kind}'s name is '{name[:64]}', expected 3 to 32 letters (a-z), digits and '-', a letter first, no '-' last.",
            param="name",
        )


def _await_end(what: str, timeout_s: float, is_there: Callable[[], bool]) -> None:
    """Return once something isn't there any more; raises `TimedOut`."""
    deadline = time.monotonic() + timeout_s
    while is_there():
        if time.monotonic() > deadline:
            raise TimedOut(f"{what} isn't gone after {timeout_s:g} s. `mafunzo down` ends everything.")
        time.sleep(0.05)


def _why_failed(deployment: Deployment) -> Lines:
    if not deployment.status.has_failed:
        return []
    error = deployment.error or {}
    return [f"The deployment is {deployment.status}: {error.get('message', '')}", *map(str, error.get("faults") or ())]
