"""Endpoints: serving a registered model, asking it, and taking it away again."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mafunzo.entities.asset import Asset
from mafunzo.entities.endpoint import DEFAULT_REQUEST_TIMEOUT_S, Deployment, DeploymentStatus, Endpoint
from mafunzo.errors import (
    Conflict,
    InvalidParameter,
    MafunzoError,
    NotFound,
    TimedOut,
    Unauthorized,
    WorkerFailed,
    from_code,
)
from mafunzo.serving.decide import supervision
from mafunzo.serving.reference import holds_chat_model
from mafunzo.serving.worker_folder import last_log
from mafunzo.workspace.compute import Computes
from mafunzo.workspace.model_source import ModelSources
from mafunzo.workspace.services import Services

if TYPE_CHECKING:
    from mafunzo.wire.azureml.endpoint import DeploymentRequest, EndpointRequest

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,30}[A-Za-z0-9]")
"""Of endpoints and deployments, as Azure has it."""
Lines = list[str]  # a class below has a verb called list


class Endpoints:
    """The verbs on endpoints and their deployments."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def list(self) -> list[Endpoint]:
        """Return the endpoints."""
        return self._services.records.endpoints.list()

    def get(self, name: str) -> EndpointHandle:
        """Return an endpoint by name; raises `NotFound`."""
        self._services.records.endpoints.get(name)
        return EndpointHandle(self._services, name)

    def create(self, name: str, tags: Mapping[str, str] | None = None) -> EndpointHandle:
        """Create an endpoint with two new keys and no deployment; raises `Conflict` when it exists."""
        require_name("endpoint", name)
        endpoint = Endpoint(name, tags=dict(tags or {}), created_by=self._services.user, created_at=datetime.now(UTC))
        self._services.records.endpoints.add(endpoint, keys=(_new_key(), _new_key()))
        return EndpointHandle(self._services, name)

    def put(self, name: str, asked: EndpointRequest) -> EndpointHandle:
        """Make the endpoint that Azure's wire asks for, or change its traffic, tags and properties.

        Raises `InvalidParameter` for traffic to deployments that aren't there.
        """
        if not any(endpoint.name == name for endpoint in self.list()):
            if asked.traffic_percent:
                raise InvalidParameter(
                    f"Endpoint {name} is new, so that no deployment can get traffic yet. Set it later."
                )
            self.create(name)
        handle = self.get(name)
        handle.set_traffic(asked.traffic_percent)
        changed = dataclasses.replace(handle.endpoint, tags=asked.tags, properties=asked.properties)
        self._services.records.endpoints.update(changed)
        return handle

    def put_deployment(self, endpoint: str, name: str, asked: DeploymentRequest) -> Deployment:
        """Begin to serve a registered model, as Azure's wire asks; return at once. It gets no traffic by itself.

        One that failed is made anew. Of any other that exists, time-outs are changed; raises `Conflict` for another model under
        its name, and for one that is being deleted, `NotFound` for an unknown machine size.
        """
        if asked.instance_type:
            Computes(self._services).get(asked.instance_type)
        asset = ModelSources(self._services).by_id(asked.model)
        handle = self.get(endpoint)
        found = {d.name: d for d in handle.deployments}.get(name)
        if found is None:
            require_name("deployment", name)
        if found is None or found.status.has_failed:
            self._services.up()
            new = self._new(
                handle,
                name,
                asset,
                initial_delay_s=asked.start_limit_s,
                request_timeout_s=asked.request_timeout_s,
                properties=asked.properties,
            )
            return self._services.records.deployments.add(new) if found is None else self._replace(found, new)
        if found.status is DeploymentStatus.DELETING:
            raise Conflict(f"Deployment {endpoint}/{name} is being deleted. Ask again when it is gone.")
        if found.artifact != asset.artifact:
            raise Conflict(
                f"Deployment {endpoint}/{name} serves {found.model}. Deploy {asset.key} under another name, give it the "
                f"traffic, and delete this one."
            )
        changed = dataclasses.replace(
            found,
            initial_delay_s=asked.start_limit_s,
            request_timeout_s=asked.request_timeout_s,
            properties={**found.properties, **asked.properties},
        )
        self._services.records.deployments.update(changed)
        return changed

    def deploy(
        self,
        model: str | Asset,
        *,
        endpoint: str,
        deployment: str = "default",
        traffic: int | None = None,
        timeout_s: float = 600.0,
    ) -> EndpointHandle:
        """Serve `model`; return once its worker is healthy and proven. See `Workspace.deploy`.

        `traffic` is the new deployment's share in percent: 100 when None and no other has any, else 0; the others keep
        their proportions in the rest. Raises `ServingMismatch`, `WorkerFailed` or `TimedOut`. Whatever is raised, nothing
        of this call is left: neither the deployment nor an endpoint that was made for it.
        """
        require_name("deployment", deployment)
        asset = model if isinstance(model, Asset) else ModelSources(self._services).get(model)
        self.require_chat_model(asset)
        found = {e.name: e for e in self._services.records.endpoints.list()}.get(endpoint)
        if found is None:
            require_name("endpoint", endpoint)
        _shared(found.traffic_percent if found else {}, deployment, traffic)  # refused before anything is written
        if any(d.name == deployment for d in self._services.records.deployments.list(endpoint)):
            raise Conflict(
                f"Endpoint {endpoint} has a deployment '{deployment}' already. Name another one, or delete it: "
                f"mafunzo endpoint delete {endpoint} --deployment {deployment}"
            )
        self._services.up()
        handle = self.get(endpoint) if found else self.create(endpoint)
        self._services.records.deployments.add(self._new(handle, deployment, asset, initial_delay_s=timeout_s))
        try:
            handle.wait(deployment, timeout_s)
            handle.set_traffic(_shared(handle.endpoint.traffic_percent, deployment, traffic))
        except (MafunzoError, KeyboardInterrupt):
            _take_back(handle, deployment, is_new=found is None)
            raise
        return handle

    def _new(
        self,
        handle: EndpointHandle,
        deployment: str,
        asset: Asset,
        *,
        initial_delay_s: float,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
        properties: Mapping[str, Any] | None = None,
    ) -> Deployment:
        return Deployment(
            endpoint=handle.name,
            name=deployment,
            model=str(asset.key),
            artifact=self.require_chat_model(asset),
            created_by=self._services.user,
            created_at=datetime.now(UTC),
            properties={"base_artifact": asset.properties.get("base_artifact"), **(properties or {})},
            initial_delay_s=initial_delay_s,
            request_timeout_s=request_timeout_s,
        )

    def require_chat_model(self, asset: Asset) -> str:
        """Return the hash of a model's files; raises `InvalidParameter` for what no worker could load."""
        artifact = require_stored(asset)
        files = {file.path for file in self._services.artifacts.manifest(artifact)}
        if not holds_chat_model(files):
            raise InvalidParameter(
                f"{asset.key} isn't a chat model (neither its root, data/model nor data/adapter has a config.json or an "
                "adapter_config.json), so that it can't be served. A command job can load it.",
                param="model",
            )
        return artifact

    def _replace(self, failed: Deployment, new: Deployment) -> Deployment:
        """Put a new deployment in a failed one's place: its maker and its logs stay, all else that is known of it goes."""
        placed = dataclasses.replace(
            new, attempt=failed.attempt, created_by=failed.created_by, created_at=failed.created_at
        )
        self._services.records.deployments.update(placed)
        return placed


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
        """Return the deployment once it is healthy; raises what it failed with, or `TimedOut`."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self._services.records.deployments.get(self.name, deployment)
            if found.status is DeploymentStatus.HEALTHY:
                return found
            if found.status.is_settled:
                error = found.error or {}
                code = str(error.get("code", "worker_failed"))
                raise from_code(code, str(error.get("message", "The worker failed.")), tuple(error.get("faults") or ()))
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"Deployment {self.name}/{deployment} is still {found.status} after {timeout_s:g} s. "
                    f"{self._last_words(deployment)}Allow more with --timeout."
                )
            time.sleep(0.1)

    def chat(self, messages: Sequence[Mapping[str, Any]], deployment: str | None = None, **parameters: Any) -> str:
        """Return the reply to `messages`; `parameters` are OpenAI's (`temperature`, `max_tokens` ...)."""
        body = {"model": self.name, "messages": [dict(m) for m in messages], **parameters}
        return str(self.invoke(body, deployment)["choices"][0]["message"]["content"])

    def stream(
        self, messages: Sequence[Mapping[str, Any]], deployment: str | None = None, **parameters: Any
    ) -> Iterator[str]:
        """Yield the reply piece by piece, as the model writes it."""
        import httpx

        body = {"model": self.name, "messages": [dict(m) for m in messages], "stream": True, **parameters}
        address = f"{self.url}/chat/completions"
        with (
            httpx.Client(timeout=None, trust_env=False) as client,
            client.stream("POST", address, json=body, headers=self._headers(deployment)) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise _refusal(answer.status_code, answer.text)
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise WorkerFailed(str(event["error"].get("message", event["error"])))
                    for choice in event["choices"]:
                        yield choice["delta"].get("content") or ""

    def invoke(self, body: Mapping[str, Any], deployment: str | None = None) -> dict[str, Any]:
        """Send OpenAI's request as it is; return its JSON answer.

        Raises `Unauthorized`, `InvalidParameter`, `NotFound`, `TimedOut` or `WorkerFailed`.
        """
        import httpx

        address = f"{self.url}/chat/completions"
        with httpx.Client(timeout=None, trust_env=False) as client:
            answer = client.post(address, json={**body, "model": self.name}, headers=self._headers(deployment))
        if answer.status_code != 200:
            raise _refusal(answer.status_code, answer.text)
        found: dict[str, Any] = answer.json()
        return found

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
        known = {found.name: found for found in self.deployments}
        faults = [f"Endpoint {self.name} has no deployment '{name}'." for name in traffic_percent if name not in known]
        faults += [
            f"{name} is {share}, expected 0 to 100." for name, share in traffic_percent.items() if not 0 <= share <= 100
        ]
        if not faults and sum(traffic_percent.values()) not in (0, 100):
            faults.append(f"The shares add up to {sum(traffic_percent.values())}, expected 100 (or 0).")
        if faults:
            raise InvalidParameter(f"The traffic of {self.name} can't be set.", faults)
        before = self.endpoint.traffic_percent
        more = [known[name] for name, share in traffic_percent.items() if share > before.get(name, 0)]
        if states := [state for found in more if (state := _why_no_traffic(found))]:
            raise Conflict(f"The traffic of {self.name} can't be set.", states)
        self._write_traffic(traffic_percent)

    def _write_traffic(self, traffic_percent: Mapping[str, int]) -> None:
        shares = {name: share for name, share in traffic_percent.items() if share}
        self._services.records.endpoints.update(dataclasses.replace(self.endpoint, traffic_percent=shares))

    def verify(self, deployment: str | None = None, timeout_s: float = 120.0) -> dict[str, Any]:
        """Prove again that each deployment answers as its model did in evaluation; return what was compared."""
        proofs: dict[str, Any] = {}
        for found in self.deployments:
            if deployment not in (None, found.name):
                continue
            if found.status is not DeploymentStatus.HEALTHY:
                raise Conflict(f"Deployment {self.name}/{found.name} is {found.status}, so it can't be asked.")
            renewed = dataclasses.replace(found, status=DeploymentStatus.VERIFYING, verification=None)
            self._services.records.deployments.update(renewed)
            proofs[found.name] = self.wait(found.name, timeout_s).verification
        if not proofs:
            raise NotFound(f"Endpoint {self.name} has no deployment '{deployment or ''}'.")
        return proofs

    def logs(self, deployment: str | None = None, lines: int = 50) -> dict[str, str]:
        """Return the end of each worker's log, and of a deployment that failed also why."""
        found = {}
        for each in self.deployments:
            if deployment in (None, each.name):
                told = [*last_log(self._services.home, each).splitlines(), *_why_failed(each)]
                found[each.name] = "\n".join(told[-lines:])
        return found

    def begin_delete(self) -> None:
        """Ask for the endpoint and its deployments to go, and return at once."""
        self._services.records.endpoints.update(dataclasses.replace(self.endpoint, is_deleting=True))
        self._services.up()

    def delete(self, timeout_s: float = 60.0) -> None:
        """Delete the endpoint and its deployments; return once their processes, ports and memory are free."""
        self.begin_delete()
        deadline = time.monotonic() + timeout_s
        while self.name in {found.name for found in self._services.records.endpoints.list()}:
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"Endpoint {self.name} isn't gone after {timeout_s:g} s. `mafunzo down` ends everything."
                )
            time.sleep(0.05)

    def begin_delete_deployment(self, name: str) -> None:
        """Ask for a deployment to go, and return at once. Raises `NotFound`, and `Conflict` for one that has traffic."""
        records = self._services.records
        found = records.deployments.get(self.name, name)
        if share := self.endpoint.traffic_percent.get(name):
            raise Conflict(
                f"Deployment {self.name}/{name} has {share} percent of the traffic. Set its traffic to 0, then delete it."
            )
        records.deployments.update(dataclasses.replace(found, status=DeploymentStatus.DELETING))
        self._services.up()

    def delete_deployment(self, name: str, timeout_s: float = 60.0) -> None:
        """Delete one deployment; return once its process, port and memory are free. Its traffic goes to the others.

        Raises `NotFound`, and `TimedOut` when its worker doesn't end.
        """
        before = self.endpoint.traffic_percent
        if before.get(name):
            self._services.records.deployments.get(self.name, name)
            self._write_traffic(_shared(before, name, 0))
        self.begin_delete_deployment(name)
        deadline = time.monotonic() + timeout_s
        while name in {found.name for found in self.deployments}:
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"Deployment {self.name}/{name} isn't gone after {timeout_s:g} s. `mafunzo down` ends everything."
                )
            time.sleep(0.05)

    def _last_words(self, deployment: str) -> str:
        """Return the end of a worker's log as a sentence, or an empty text."""
        lines = self.logs(deployment, 1).get(deployment, "").strip()
        return f"Its log ends with: {lines}. " if lines else ""

    def _headers(self, deployment: str | None) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.keys[0]}"}
        return headers | ({"mafunzo-deployment": deployment} if deployment else {})


def _new_key() -> str:
    return secrets.token_urlsafe(32)


def require_stored(asset: Asset) -> str:
    """Return the hash of a model's files; raises `InvalidParameter` for one that is on offer only."""
    if asset.artifact is None:
        raise InvalidParameter(
            f"{asset.key} is on offer but not registered. Fine-tune it, or download and register it."
        )
    return asset.artifact


def require_name(kind: str, name: str) -> None:
    """Raise `InvalidParameter` for a name that Azure doesn't take either."""
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            f"The {kind}'s name is '{name[:64]}', expected 3 to 32 letters (a-z), digits and '-', a letter first, no '-' last.",
            param="name",
        )


def _why_no_traffic(deployment: Deployment) -> str:
    """Return why a deployment may get no requests, with what to do; empty for one that answers, or did and comes back."""
    name, status = deployment.name, deployment.status
    if status is DeploymentStatus.DELETING:
        return f"{name} is being deleted."
    if status.has_failed:
        why = (deployment.error or {}).get("message", "see its log.")
        return f"{name} is {status}: {why} Create it again with what has to be different, or delete it."
    if status in (DeploymentStatus.HEALTHY, DeploymentStatus.UNHEALTHY) or supervision(deployment).was_healthy:
        return ""
    return f"{name} is {status} and can't answer yet. Wait until it is healthy, then set its traffic."


def _why_failed(deployment: Deployment) -> Lines:
    if not deployment.status.has_failed:
        return []
    error = deployment.error or {}
    return [f"The deployment is {deployment.status}: {error.get('message', '')}", *map(str, error.get("faults") or ())]


def _take_back(handle: EndpointHandle, deployment: str, is_new: bool) -> None:
    """Delete a deployment that didn't go live, and its endpoint when that was made for it and nothing else is in it.

    What can't be deleted is logged, not raised: why the deployment failed is what the user has to read.
    """
    try:
        if deployment in {found.name for found in handle.deployments}:
            handle.delete_deployment(deployment)
        if is_new and not handle.deployments:
            handle.delete()
    except MafunzoError as error:
        logger.warning("Couldn't take back %s/%s: %s", handle.name, deployment, error)


def _shared(before: Mapping[str, int], deployment: str, share: int | None) -> dict[str, int]:
    """Return the traffic with `deployment` at `share` and the others in their old proportions; it adds up to 100, or to 0.

    None is 100 where no other has a share, else 0. Raises `InvalidParameter` for a share that can't be.
    """
    others = {name: percent for name, percent in before.items() if name != deployment and percent}
    if share is None:
        share = 0 if others else 100
    if not 0 <= share <= 100:
        raise InvalidParameter(f"traffic is {share}, expected 0 to 100 percent.")
    if not others:
        if share not in (0, 100):
            raise InvalidParameter(
                f"traffic is {share}, but no other deployment gets requests, so that nothing would take the other "
                f"{100 - share} percent. Deployment '{deployment}' can take 100, or 0."
            )
        return {deployment: share}
    total, rest = sum(others.values()), 100 - share
    shares = {name: percent * rest // total for name, percent in others.items()}
    first = next(iter(shares))
    shares[first] += rest - sum(shares.values())
    return {**shares, deployment: share}


def _refusal(status: int, text: str) -> Exception:
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text[:500]
    kinds: dict[int, type[MafunzoError]] = {
        400: InvalidParameter,
        401: Unauthorized,
        404: NotFound,
        422: InvalidParameter,
        504: TimedOut,
    }
    return kinds.get(status, WorkerFailed)(f"The endpoint answered {status}: {message}")
