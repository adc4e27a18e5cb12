"""Batch endpoints: names under which files of rows are answered by jobs, each with the model and parameters of a deployment."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

from mafunzo.control.workspace.computes import Computes
from mafunzo.control.workspace.endpoints import require_name
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.control.workspace.jobs import Jobs
from mafunzo.control.workspace.model_source import ModelSources
from mafunzo.control.workspace.predictions import OUTPUT
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.shipped_component import shipped
from mafunzo.entities.asset import Asset
from mafunzo.entities.batch import (
    BATCH_DEPLOYMENT,
    BATCH_ENDPOINT,
    BatchDeployment,
    BatchDeploymentRequest,
    BatchEndpoint,
    BatchEndpointRequest,
    Invocation,
)
from mafunzo.entities.component import Node, Output, parse_value, unknown_name
from mafunzo.entities.job import Job
from mafunzo.entities.job_request import JobRequest, RequestInput
from mafunzo.entities.parameters.score import SCORED_ROWS, SCORING, scoring_faults
from mafunzo.entities.reference import AssetReference
from mafunzo.entities.scan import Scan
from mafunzo.errors import Faults, InvalidParameter, NotFound

PIPELINE = "batch_score_pipeline"
MODEL = "mlflow_model_path"
Deployments = list[BatchDeployment]  # the class below has a verb called list
Listed = Iterator[tuple[int, Job]]


class BatchEndpoints:
    """The verbs on batch endpoints and their deployments."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def list(self, limit: int | None = None, after: str | None = None) -> list[BatchEndpoint]:
        """Return the batch endpoints by name: all, or `limit` of those whose names come after a name."""
        return self._services.records.batch_endpoints.page(limit, after)

    def get(self, name: str) -> BatchEndpoint:
        """Return one; raises `NotFound` with near names."""
        return self._services.records.batch_endpoints.get(name)

    def create(self, name: str, request: BatchEndpointRequest) -> BatchEndpoint:
        """Make a batch endpoint, or change the one of that name. Idempotent.

        Raises `InvalidParameter` for its name, and `NotFound` for a default deployment that isn't there.
        """
        require_name("batch endpoint", name)
        return self._services.records.batch_endpoints.put(
            BatchEndpoint(
                name,
                request.default_deployment,
                request.description,
                request.tags,
                created_by=self._services.user,
                echoes=request.echoes,
            )
        )

    def delete(self, name: str) -> None:
        """Delete a batch endpoint with its deployments; its jobs stay. Raises `NotFound`."""
        self._services.records.batch_endpoints.delete(name)

    def deployments(self, endpoint: str, limit: int | None = None, after: str | None = None) -> Deployments:
        """Return the deployments of an endpoint by name, as `list` does. Raises `NotFound`."""
        self.get(endpoint)
        return self._services.records.batch_deployments.page(endpoint, limit, after)

    def deployment(self, endpoint: str, name: str) -> BatchDeployment:
        """Return a deployment of an endpoint. Raises `NotFound`."""
        self.get(endpoint)
        return self._services.records.batch_deployments.get(endpoint, name)

    def deploy(self, endpoint: str, name: str, request: BatchDeploymentRequest) -> BatchDeployment:
        """Make a deployment, or change the one of that name. Idempotent; nothing is started.

        Raises `InvalidParameter` with all faults of its name, compute and parameters, and `NotFound` for a model or an endpoint
        that isn't there.
        """
        require_name("deployment", name)
        self.get(endpoint)
        model = self.require_model(request.model)
        self.faults_of(request).require_none(f"Deployment '{name}' can't be made.")
        return self._services.records.batch_deployments.put(
            BatchDeployment(
                endpoint,
                name,
                f"{model.name}:{model.version}",
                request.parameters,
                request.compute,
                request.description,
                request.tags,
                created_by=self._services.user,
                echoes=request.echoes,
            )
        )

    def require_model(self, model: AssetReference) -> Asset:
        """Return the model that a deployment names: registered, or on offer. Raises `NotFound`."""
        return ModelSources(self._services).get(model)

    def faults_of(self, request: BatchDeploymentRequest) -> Faults:
        """Return all faults of a deployment's compute and parameters."""
        faults = Faults()
        faults.add(*Computes(self._services).faults({"compute": request.compute} if request.compute else {}))
        faults.add(*_parameter_faults(request))
        return faults

    def delete_deployment(self, endpoint: str, name: str) -> None:
        """Delete a deployment; where it is the default, the endpoint has none then. Raises `NotFound`."""
        self.get(endpoint)
        self._services.records.batch_deployments.delete(endpoint, name)

    def invoke(self, endpoint: str, invocation: Invocation) -> JobHandle:
        """Put a job into the queue that answers a file of rows; return it.

        Idempotent where the job has a name. Raises `InvalidParameter` with all faults, and `NotFound` for a deployment that
        isn't there, or where none is named and there is no default.
        """
        owner = self.get(endpoint)
        name = invocation.deployment or owner.default_deployment
        if not name:
            raise NotFound(
                f"Batch endpoint {endpoint} has no default deployment, and none is named. Name one, or set the default."
            )
        return Jobs(self._services).create(_request(self.deployment(endpoint, name), invocation))

    def jobs(self, endpoint: str, deployment: str = "", scan: Scan | None = None) -> Listed:
        """Yield the jobs that were asked through an endpoint, or one deployment of it, newest first, with their positions."""
        self.get(endpoint)
        for position, job in self._services.records.jobs.scan(scan or Scan()):
            is_of = job.user_properties.get(BATCH_ENDPOINT) == endpoint
            if is_of and deployment in ("", job.user_properties.get(BATCH_DEPLOYMENT)):
                yield int(position), job


def _parameter_faults(request: BatchDeploymentRequest) -> Iterator[str]:
    """Yield what is wrong with a deployment's parameters, as a job with them would be refused for."""
    declared = {parameter.name: parameter.as_input() for parameter in SCORING}
    for name, value in request.parameters.items():
        yield parse_value(declared[name], value)[1] if name in declared else unknown_name(name, declared)
    values = {parameter.name: parameter.default for parameter in SCORING}
    yield from scoring_faults({**values, **request.parameters})


def _request(deployment: BatchDeployment, invocation: Invocation) -> JobRequest:
    pipeline = shipped(PIPELINE).component
    if reserved := sorted({*invocation.parameters} & {MODEL, SCORED_ROWS.name}):
        raise InvalidParameter(f"{', '.join(reserved)} can't be parameters of a request: the deployment has the model.")
    inputs: dict[str, RequestInput] = {
        MODEL: deployment.model,
        SCORED_ROWS.name: invocation.data,
        **deployment.parameters,
        **invocation.parameters,
    }
    node = Node(
        "score",
        PIPELINE,
        {name: f"${{{{parent.inputs.{name}}}}}" for name in inputs},
        {OUTPUT: f"${{{{parent.outputs.{invocation.output}}}}}"},
    )
    return JobRequest(
        name=invocation.job_name or f"batch-{secrets.token_hex(4)}",
        pipeline=replace(
            pipeline,
            nodes={node.name: node},
            outputs={invocation.output: Output(invocation.output, "uri_folder")},
        ),
        inputs=inputs,
        computes={"compute": deployment.compute} if deployment.compute else {},
        display_name=f"{deployment.model} for {deployment.endpoint}/{deployment.name}",
        experiment=invocation.experiment or deployment.endpoint,
        tags={},
        user_properties={BATCH_ENDPOINT: deployment.endpoint, BATCH_DEPLOYMENT: deployment.name},
    )
