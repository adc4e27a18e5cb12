"""Adapters of a deployment: tuned versions that its workers serve beside its model, added and removed while they answer."""

from __future__ import annotations

import dataclasses
import re
import time
from functools import cached_property
from typing import TYPE_CHECKING

from mafunzo.control.workspace.liveness import require_server_for_deployment
from mafunzo.control.workspace.services import Services
from mafunzo.entities.adapter import Adapter, AdapterReport, AdapterStatus, adapter_model
from mafunzo.entities.asset import Asset
from mafunzo.entities.endpoint import DEFAULT_START_LIMIT_S, Deployment, DeploymentStatus
from mafunzo.entities.engine import Engine
from mafunzo.errors import Conflict, InvalidParameter, NotFound, ServerFailed, TimedOut, WorkerFailed, from_record

if TYPE_CHECKING:
    from mafunzo.control.workspace.models import Models

DEPLOYMENT = "default"
"""The deployment's name where none is given, as of `deploy`."""
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,30}[A-Za-z0-9])?")
POLL_S = 0.05


class Adapters:
    """The verbs on the adapters of all deployments."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @cached_property
    def _models(self) -> Models:
        from mafunzo.control.workspace.models import Models

        return Models(self._services)

    def list(self, endpoint: str) -> list[AdapterReport]:
        """Return the adapters of an endpoint's deployments, and how each stands; raises `NotFound`."""
        self._services.records.endpoints.get(endpoint)
        deployments = self._services.records.deployments.list(endpoint)
        return [report(each, name) for each in deployments for name in sorted(each.adapters)]

    def add(
        self,
        endpoint: str,
        name: str,
        model: str | Asset,
        *,
        deployment: str = DEPLOYMENT,
        timeout_s: float = DEFAULT_START_LIMIT_S,
    ) -> AdapterReport:
        """Serve an adapter beside a deployment's model, as `<endpoint>:<name>`, without a restart.

        Return once it is live on all workers, each of which has proven that it answers as the adapter did in evaluation; one
        that comes later proves it too. An idle deployment proves it when it wakes.

        model: a registered version whose package is an adapter of the base that the deployment stands on. Raises
        `InvalidParameter` for another, `Conflict` for a name that is taken, and what refused it, or `TimedOut`: it is taken
        away again.
        """
        _require_name(name)
        asset = model if isinstance(model, Asset) else self._models.get(model)
        artifact = self._require_fit(asset, self._services.records.deployments.get(endpoint, deployment))
        self._services.artifacts.require_intact(artifact)
        added = Adapter(str(asset.key), artifact)
        before = self._services.records.deployments.get(endpoint, deployment).adapters.get(name)
        self._services.records.deployments.change(endpoint, deployment, lambda current: _with(current, name, added))
        try:
            self._services.up()
            return self._wait_until_live(endpoint, deployment, name, timeout_s)
        except ServerFailed:
            raise  # the next server goes on with it
        except BaseException:
            if before is None:
                self._services.records.deployments.change(endpoint, deployment, lambda current: _without(current, name))
            raise

    def remove(
        self, endpoint: str, name: str, *, deployment: str = DEPLOYMENT, timeout_s: float = DEFAULT_START_LIMIT_S
    ) -> None:
        """Take an adapter away; return once no worker has it. Answers under way are finished. Raises `NotFound`, `TimedOut`."""
        present = self._services.records.deployments.get(endpoint, deployment)
        if name not in present.adapters:
            raise NotFound(f"Deployment {endpoint}/{deployment} has no adapter '{name}'.{_known(present)}")
        self._services.records.deployments.change(endpoint, deployment, lambda current: _without(current, name))
        self._services.up()
        deadline = time.monotonic() + timeout_s
        while True:
            current = self._services.records.deployments.get(endpoint, deployment)
            if not any(_is_loaded(worker, name) for worker in current.workers):
                return
            if time.monotonic() > deadline:
                raise TimedOut(f"{adapter_model(endpoint, name)} isn't unloaded after {timeout_s:g} s. That goes on.")
            require_server_for_deployment(self._services, current)
            time.sleep(POLL_S)

    def _require_fit(self, asset: Asset, deployment: Deployment) -> str:
        """Return the hash of an adapter's files; raises `InvalidParameter` for what the deployment can't serve, `Conflict`."""
        from mafunzo.control.serving.adapter import misfit

        where = f"{deployment.endpoint}/{deployment.name}"
        if deployment.status.has_failed or deployment.status is DeploymentStatus.DELETING:
            raise Conflict(f"Deployment {where} is {deployment.status}: no adapter can be added to it.")
        if any(worker.supervision.engine.startswith(Engine.OPENVINO) for worker in deployment.workers):
            raise Conflict(
                f"Deployment {where} is computed by openvino, which serves no adapters. Deploy it with --engine torch."
            )
        artifact = self._models.artifact_of(asset)
        if artifact is None:
            raise InvalidParameter(
                f"{asset.key} is a model of the catalogue, expected a registered adapter.", param="model"
            )
        base = deployment.base_artifact or deployment.artifact
        if fault := misfit(self._services.artifacts, artifact, base, asset.properties.get("base_artifact")):
            raise InvalidParameter(
                f"{asset.key} can't be served on {where}, which serves {deployment.model}: {fault}. Add a version that was "
                "tuned from the deployment's base and packaged with merge_lora_weights false.",
                param="model",
            )
        return artifact

    def _wait_until_live(self, endpoint: str, deployment: str, name: str, timeout_s: float) -> AdapterReport:
        deadline = time.monotonic() + timeout_s
        while True:
            current = self._services.records.deployments.get(endpoint, deployment)
            if name not in current.adapters:
                raise Conflict(f"{adapter_model(endpoint, name)} was removed while it was being added.")
            now = report(current, name)
            if now.status is AdapterStatus.LIVE or current.status is DeploymentStatus.IDLE:
                return now
            if now.status is AdapterStatus.REFUSED:
                raise from_record(now.error, WorkerFailed("The worker refused the adapter."))
            if time.monotonic() > deadline:
                states = ", ".join(f"{worker} is {worker_status}" for worker, worker_status in now.workers.items())
                raise TimedOut(
                    f"{now.model_name} isn't live after {timeout_s:g} s ({states or f'{current.name} is {current.status}'}). "
                    "Allow more with --timeout."
                )
            require_server_for_deployment(self._services, current)
            time.sleep(POLL_S)


def report(deployment: Deployment, name: str) -> AdapterReport:
    """Return how an adapter of a deployment stands: refused where one worker refuses it, live where all have it."""
    healthy = [one for one in deployment.workers if one.status is DeploymentStatus.HEALTHY]
    workers = {one.worker: one.adapter_status(name) for one in healthy}
    status = AdapterStatus.LIVE if workers else AdapterStatus.LOADING
    for worse in (AdapterStatus.LOADING, AdapterStatus.REFUSED):
        status = worse if worse in workers.values() else status
    states = [state for one in healthy if (state := one.adapter_state(name)) is not None and state.status is status]
    shown = states[0] if states else None
    return AdapterReport(
        adapter_model(deployment.endpoint, name),
        deployment.name,
        deployment.adapters[name].model,
        status,
        workers,
        shown.verification if shown else None,
        shown.error if shown else None,
    )


def _require_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            f"The adapter's name is '{name[:64]}', expected 1 to 32 letters (a-z), digits, '.', '_' and '-', a letter or digit "
            "first and last.",
            param="name",
        )


def _with(deployment: Deployment, name: str, adapter: Adapter) -> Deployment:
    """Return a deployment with an adapter more; where it was refused, it is tried again."""
    present = deployment.adapters.get(name)
    if present is not None and present.artifact != adapter.artifact:
        raise Conflict(
            f"{adapter_model(deployment.endpoint, name)} is {present.model}. Choose another name, or remove that first: "
            f"mafunzo endpoint adapter remove {deployment.endpoint} {name}"
        )
    adapter = dataclasses.replace(adapter, was_live=present is not None and present.was_live)
    changed = dataclasses.replace(deployment, adapters={**deployment.adapters, name: adapter})
    for worker in changed.workers:
        if worker.adapter_status(name) is AdapterStatus.REFUSED:
            states = {one: state for one, state in worker.adapter_states.items() if one != name}
            changed = changed.with_worker(dataclasses.replace(worker, adapter_states=states))
    return changed


def _without(deployment: Deployment, name: str) -> Deployment:
    rest = {one: adapter for one, adapter in deployment.adapters.items() if one != name}
    return dataclasses.replace(deployment, adapters=rest)


def _is_loaded(worker: Deployment, name: str) -> bool:
    state = worker.adapter_states.get(name)
    return worker.status is DeploymentStatus.HEALTHY and state is not None and state.attempt == worker.attempt


def _known(deployment: Deployment) -> str:
    return f" It has {', '.join(sorted(deployment.adapters))}." if deployment.adapters else ""
