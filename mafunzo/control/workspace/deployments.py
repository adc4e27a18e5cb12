"""Deployments: putting a registered model behind an endpoint, and what is there."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from mafunzo.control.workspace.endpoints import EndpointHandle, Endpoints, require_name, ttl_of
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.traffic_share import rebalanced
from mafunzo.entities.asset import Asset
from mafunzo.entities.endpoint import (
    DEFAULT_REQUEST_TIMEOUT_S,
    DEFAULT_START_LIMIT_S,
    Deployment,
    DeploymentRequest,
    DeploymentStatus,
    Rollout,
    ServedModel,
)
from mafunzo.entities.engine import Engine, engine_named
from mafunzo.entities.job import Resources
from mafunzo.entities.reference import AssetReference
from mafunzo.entities.scale import ONE_INSTANCE, Scale, require_scale
from mafunzo.errors import Conflict, Faults, InvalidParameter, MafunzoError, OutOfMemory, ServerFailed

if TYPE_CHECKING:  # deploying loads much, and most commands look at deployments only
    from mafunzo.control.workspace.models import Models

logger = logging.getLogger(__name__)

DeploymentList = list[Deployment]  # the class below has a verb called list


class Deployments:
    """The verbs on the deployments of all endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._endpoints = Endpoints(services)

    @cached_property
    def _models(self) -> Models:
        from mafunzo.control.workspace.models import Models

        return Models(self._services)

    def list(self, endpoint: str | None = None) -> DeploymentList:
        """Return the deployments of one endpoint, or of all, by endpoint and name."""
        return self._services.records.deployments.list(endpoint)

    def page(self, endpoint: str, limit: int, after: str | None) -> DeploymentList:
        """Return `limit` deployments of an endpoint, those whose names come after a name (pagination, by keyset)."""
        return self._services.records.deployments.page(endpoint, limit, after)

    def of(self, endpoints: Iterable[str]) -> DeploymentList:
        """Return the deployments of some endpoints, by endpoint and name."""
        return self._services.records.deployments.of(endpoints)

    def get(self, endpoint: str, name: str) -> Deployment:
        """Return a deployment of an endpoint; raises `NotFound` with near names."""
        return self._services.records.deployments.get(endpoint, name)

    def create(self, endpoint: str, name: str, request: DeploymentRequest) -> Deployment:
        """Begin to serve a version of a model; return at once. It gets no traffic by itself.

        One that failed is made anew. Of any other that exists, time-outs, lease and the number of workers are changed, and
        another version of its model begins a rolling update; raises `Conflict` for another model or engine under its name, and
        for one that is being deleted, `NotSupported` for an engine that isn't there, `NotFound` for an unknown machine size,
        `ArtifactCorrupt` for a damaged model, `OutOfMemory` for more workers than this machine can hold.
        """
        require_limits(request.initial_delay_s, request.request_timeout_s)
        _require_engine(request.engine)
        if request.scale is not None:
            require_scale(request.scale)
        if request.instance_type:
            from mafunzo.control.workspace.computes import Computes

            Computes(self._services).get(request.instance_type)
        asset = self._models.version(request.model)
        handle = self._endpoints.get(endpoint)
        present = {deployment.name: deployment for deployment in handle.deployments}.get(name)
        if present is None:
            require_name("deployment", name)
        if request.scale is not None:
            self._require_room(f"{endpoint}/{name}", asset, request.scale)
        self._require_computed(request.engine, asset)
        records = self._services.records.deployments
        if present is None or present.status.has_failed:
            self._services.up()
            new = self._new(endpoint, name, asset, request)
            if present is None:
                return records.add(new)
            # The maker and the logs stay of one that failed; all else that is known of it goes.
            new = dataclasses.replace(
                new, attempt=present.attempt, created_by=present.created_by, created_at=present.created_at
            )
            records.update(new)
            return new
        if present.status is DeploymentStatus.DELETING:
            raise Conflict(f"Deployment {endpoint}/{name} is being deleted. Ask again when it is gone.")
        if request.engine not in (None, present.engine):
            raise Conflict(
                f"Deployment {endpoint}/{name} has the engine {present.engine}. Deploy with the engine {request.engine} under "
                "another name, give it the traffic, and delete this one."
            )
        rollout = self._rollout(present, asset)

        def change(current: Deployment) -> Deployment:
            changed = dataclasses.replace(
                current,
                rollout=rollout,
                initial_delay_s=request.initial_delay_s,
                request_timeout_s=request.request_timeout_s,
                scale=request.scale or current.scale,
                logs_requests=current.logs_requests if request.logs_requests is None else request.logs_requests,
                echoes={**current.echoes, **request.echoes},
            )
            return changed if request.ttl_s is None else changed.leased(request.ttl_s, datetime.now(UTC))

        return self._change(present, change)

    def update(
        self, endpoint: str, name: str, model: str | Asset, timeout_s: float = DEFAULT_START_LIMIT_S
    ) -> Deployment:
        """Have a deployment serve another version of its model, while it answers; return it once all its workers do.

        A rolling update: one new worker more starts and proves itself, takes requests, and an old one ends with its last; so on
        for all. Where a new one fails, the old ones stay. Raises `Conflict` for another model, or while another update goes on,
        what a new worker failed with, `OutOfMemory` without room for one worker more, or `TimedOut`, which leaves it going on.
        """
        asset = model if isinstance(model, Asset) else self._models.get(model)
        present = self.get(endpoint, name)
        rollout = self._rollout(present, asset)
        changed = self._change(present, lambda current: dataclasses.replace(current, rollout=rollout))
        self._services.up()
        return self._endpoints.get(endpoint).wait_for_update(name, timeout_s) if rollout is not None else changed

    def _rollout(self, present: Deployment, asset: Asset) -> Rollout | None:
        """Return the update of a deployment to a version of its model; None where it serves that, or as it goes on already."""
        name, current = f"{present.endpoint}/{present.name}", present.rollout
        artifact = self._models.artifact_of(asset)
        if current is not None and current.error is None:
            if current.target.artifact == artifact:
                return current
            raise Conflict(
                f"Deployment {name} is being updated to {current.target.model}. Ask again when that has ended."
            )
        if present.artifact == artifact:
            return None
        if present.model.rpartition(":")[0] != asset.name:
            raise Conflict(
                f"Deployment {name} serves {present.model}. Deploy {asset.key} under another name, give it the "
                f"traffic, and delete this one."
            )
        if not any(worker.supervision.was_healthy for worker in present.workers):
            raise Conflict(f"Deployment {name} is {present.status} and never answered yet. Wait until it is healthy.")
        files, base = self._files_of(asset)
        for stored in filter(None, (files, base)):
            self._services.artifacts.require_intact(stored)
        self._require_adapters_fit(present, asset, base or files)
        from mafunzo.control.serving import scale

        most = present.scale.max_instances + 1
        self._require_room(name, asset, dataclasses.replace(present.scale, max_instances=most))
        return Rollout(
            ServedModel(str(asset.key), files, base), present.served, instances=len(scale.present(present)) or 1
        )

    def _require_adapters_fit(self, present: Deployment, asset: Asset, base: str) -> None:
        """Raise `Conflict` where an adapter of a deployment can't stand on the version that it is updated to."""
        from mafunzo.control.serving.adapter import misfit

        faults = Faults()
        for name, adapter in present.adapters.items():
            trained_on = self._models.get(adapter.model).properties.get("base_artifact")
            if fault := misfit(self._services.artifacts, adapter.artifact, base, trained_on):
                faults.add(f"{name} ({adapter.model}): {fault}.")
        where = f"{present.endpoint}/{present.name}"
        faults.require_none(
            f"{where} can't be updated to {asset.key}: adapters of it don't fit. Remove them first.", Conflict
        )

    def rescale(self, endpoint: str, name: str, scale: Scale) -> Deployment:
        """Have a deployment served by so many workers; return at once: they start, or end with their last request.

        Raises `NotFound`, `InvalidParameter` for numbers that can't be, `OutOfMemory` for more than this machine can hold.
        """
        require_scale(scale)
        present = self.get(endpoint, name)
        self._require_room(f"{endpoint}/{name}", present, scale)
        changed = self._change(present, lambda current: dataclasses.replace(current, scale=scale))
        self._services.up()
        return changed

    def log_requests(self, endpoint: str, name: str, is_on: bool) -> Deployment:
        """Have the prompts and answers of a deployment be kept from now on, or no longer; those that were kept stay.

        Raises `NotFound`.
        """
        present = self.get(endpoint, name)
        return self._change(present, lambda current: dataclasses.replace(current, logs_requests=is_on))

    def _change(self, present: Deployment, change: Callable[[Deployment], Deployment]) -> Deployment:
        changed = self._services.records.deployments.change(present.endpoint, present.name, change)
        assert changed is not None
        return changed

    def _require_room(self, name: str, model: Asset | Deployment, scale: Scale) -> None:
        """Raise `OutOfMemory` where this machine can't hold as many workers of a model, whatever else it does."""
        if scale.max_instances == 1:
            return  # the supervisor refuses it, with what its start would have booked
        from mafunzo.control.launcher.hardware import capacity, hardware
        from mafunzo.control.serving.memory import in_words, least_resources

        artifact, base = self._files_of(model)
        room = capacity(hardware())
        least = least_resources(self._services.artifacts, [stored for stored in (artifact, base) if stored], room)
        count = scale.max_instances
        if not Resources(0, least.gpus * count, least.memory_mb * count).fits(room):
            raise OutOfMemory(
                f"Deployment {name} can't have {count} instances: each needs {in_words(least)} at least, and this machine has "
                f"{in_words(room)}. Ask for fewer instances, or serve a smaller model."
            )

    def _require_computed(self, engine: Engine | None, asset: Asset) -> None:
        """Raise `NotSupported` for a model that the engine which was asked for doesn't compute."""
        if engine is Engine.VLLM:
            from mafunzo.control.serving.engine import require_computed

            require_computed(engine, self._services.artifacts, *self._files_of(asset))

    def _files_of(self, model: Asset | Deployment) -> tuple[str, str | None]:
        """Return the hash of a model's files, and of its base where it is an adapter: weights that were merged need none."""
        if isinstance(model, Deployment):
            return model.artifact, model.base_artifact
        from mafunzo.control.serving.reference import is_adapter  # pydantic, and schemas made with it

        artifact = self.require_chat_model(model)
        files = {file.path for file in self._services.artifacts.manifest(artifact)}
        return artifact, model.properties.get("base_artifact") if is_adapter(files) else None

    def deploy(
        self,
        model: str | Asset,
        *,
        endpoint: str,
        deployment: str = "default",
        traffic: int | None = None,
        timeout_s: float = DEFAULT_START_LIMIT_S,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
        scale: Scale = ONE_INSTANCE,
        ttl: str | float | None = None,
        logs_requests: bool = False,
        engine: Engine | str = Engine.AUTO,
    ) -> EndpointHandle:
        """Serve `model`; return once its workers are healthy and proven. See `Workspace.deploy`.

        A model that is on offer is fetched and converted first, once; nothing is known of how it has to answer, so that its
        verification says that it is unverified.
        `traffic` is the new deployment's share in percent: 100 when None and no other has any, else 0; the others keep
        their proportions in the rest. Raises `ServingMismatch`, `WorkerFailed` or `TimedOut`. Whatever is raised, nothing
        of this call is left: neither the deployment nor an endpoint that was made for it. Only where the server stops
        meanwhile (`ServerFailed`), both stay, and the next server goes on with them.
        """
        require_name("deployment", deployment)
        require_limits(timeout_s, request_timeout_s)
        require_scale(scale)
        ttl_s = None if ttl is None else ttl_of(ttl)
        engine = engine_named(engine)
        _require_engine(engine)
        asset = model if isinstance(model, Asset) else self._models.get(model)
        if asset.artifact is not None:
            self.require_chat_model(asset)
        present = self._endpoints.find(endpoint)
        if present is None:
            require_name("endpoint", endpoint)
        rebalanced(
            present.traffic_percent if present else {}, deployment, traffic
        )  # refused before anything is written
        if any(entity.name == deployment for entity in self.list(endpoint)):
            raise Conflict(
                f"Endpoint {endpoint} has a deployment '{deployment}' already. Name another one, or delete it: "
                f"mafunzo endpoint delete {endpoint} --deployment {deployment}"
            )
        self._services.up()
        if self._models.artifact_of(asset) is None:
            self._models.import_once(str(asset.key)).wait()
        self.require_chat_model(asset)
        self._require_room(f"{endpoint}/{deployment}", asset, scale)
        self._require_computed(engine, asset)
        handle = self._endpoints.get(endpoint) if present else self._endpoints.create(endpoint)
        request = DeploymentRequest(
            AssetReference(asset.name, asset.version),
            initial_delay_s=timeout_s,
            request_timeout_s=request_timeout_s,
            scale=scale,
            ttl_s=ttl_s,
            logs_requests=logs_requests,
            engine=engine,
        )
        self.create(endpoint, deployment, request)
        try:
            handle.wait(deployment, timeout_s)
            handle.set_traffic(rebalanced(handle.endpoint.traffic_percent, deployment, traffic))
        except ServerFailed:
            raise  # taking back would start another server
        except (MafunzoError, KeyboardInterrupt):
            _take_back(handle, deployment, is_new=present is None)
            raise
        return handle

    def require_chat_model(self, model: Asset | AssetReference) -> str:
        """Return the hash of a model's files; raises `InvalidParameter` for what no worker could load, `NotFound`."""
        from mafunzo.control.serving.reference import holds_chat_model  # pydantic, and schemas made with it

        asset = model if isinstance(model, Asset) else self._models.version(model)
        artifact = self._models.artifact_of(asset)
        if artifact is None:
            raise InvalidParameter(
                f"{asset.key} is on offer but not registered, and no job has fetched it. Fetch it once, then try again: "
                f"mafunzo model import {asset.key} (`mafunzo deploy` does so by itself).",
                param="model",
            )
        files = {file.path for file in self._services.artifacts.manifest(artifact)}
        if not holds_chat_model(files):
            raise InvalidParameter(
                f"{asset.key} isn't a chat model (neither its root, data/model nor data/adapter has a config.json or an "
                "adapter_config.json), so that it can't be served. A command job can load it.",
                param="model",
            )
        return artifact

    def _new(self, endpoint: str, name: str, asset: Asset, request: DeploymentRequest) -> Deployment:
        artifact, base = self._files_of(asset)
        for stored in filter(None, (artifact, base)):  # what is served was never seen since it was stored
            self._services.artifacts.require_intact(stored)
        return Deployment(
            endpoint=endpoint,
            name=name,
            model=str(asset.key),
            artifact=artifact,
            initial_delay_s=request.initial_delay_s,
            request_timeout_s=request.request_timeout_s,
            created_by=self._services.user,
            created_at=datetime.now(UTC),
            base_artifact=base,
            echoes=request.echoes,
            scale=request.scale or ONE_INSTANCE,
            logs_requests=bool(request.logs_requests),
            engine=request.engine or Engine.AUTO,
            is_new=True,
        ).leased(request.ttl_s, datetime.now(UTC))


def _require_engine(engine: Engine | None) -> None:
    if engine in (Engine.OPENVINO, Engine.VLLM):
        from mafunzo.control.serving.engine import require_engine

        require_engine(engine)


def require_limits(initial_delay_s: float, request_timeout_s: float) -> None:
    """Raise `InvalidParameter` for limits that no deployment can have, all of them at once."""
    limits = {"timeout": initial_delay_s, "request_timeout": request_timeout_s}
    faults = Faults()
    faults.add(*(f"{name} is {s:g} s, expected seconds above 0." for name, s in limits.items() if not 0 < s < math.inf))
    faults.require_none("The deployment's limits can't be.")


def _take_back(handle: EndpointHandle, deployment: str, is_new: bool) -> None:
    """Delete a deployment that didn't go live, and its endpoint when that was made for it and nothing else is in it.

    What can't be deleted is logged, not raised: why the deployment failed is what the user has to read.
    """
    try:
        if deployment in {entity.name for entity in handle.deployments}:
            handle.delete_deployment(deployment)
        if is_new and not handle.deployments:
            handle.delete()
    except MafunzoError as error:
        logger.warning("Couldn't take back %s/%s: %s", handle.name, deployment, error)
