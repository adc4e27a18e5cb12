"""The ways in that one server has beside OpenAI's dialect. One whose package is absent is left out, and the rest goes on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.types import Scope

from mafunzo.control.workspace import Home, Workspace
from mafunzo.control.workspace.jobs import Jobs
from mafunzo.entities.job import Job
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entrypoints.http import tls
from mafunzo.entrypoints.http.context import Context, Loop
from mafunzo.entrypoints.plugins import AZURE, MLFLOW
from mafunzo.entrypoints.serve.application import create_app


@dataclass(frozen=True)
class MlflowRoutes:
    """MLflow's part of an application. dialect: its routes' part of the application's state; is_audited: for the audit log."""

    routers: Sequence[APIRouter] = ()
    dialect: Any = None
    is_audited: Callable[[Scope, int], bool] | None = None


@dataclass(frozen=True)
class StepAccess:
    """How a step's program reaches its own server: by the address, the token of the step and the home's certificates."""

    home: Home
    own: ServerAddress
    token: str


@dataclass(frozen=True)
class SecureApp:
    """The https port's application and its certificate, by the paths of the files."""

    app: FastAPI
    certificate: str
    key: str


def is_here(package: str) -> bool:
    """Return whether a way in is installed."""
    return find_spec(package) is not None


class MlflowWayIn:
    """MLflow's dialect on one server, from before its loops start to when its applications are made."""

    def __init__(self, home: Home, jobs: Jobs) -> None:
        from mafunzo.entrypoints.mlflow.child import MlflowView

        self._child = MlflowView(home, jobs)
        self.loop = Loop("mlflow", self._child.run)

    def routes(self, workspace: Workspace, context: Context) -> MlflowRoutes:
        """Return its routes and what they need."""
        from mafunzo.entrypoints.mlflow import access as mlflow_access
        from mafunzo.entrypoints.mlflow import routes as mlflow
        from mafunzo.entrypoints.mlflow.registry import Registry

        dialect = mlflow.Mlflow(self._child, Registry(workspace, self._child.artifacts), context)
        return MlflowRoutes((mlflow.router,), dialect, mlflow_access.is_audited)


def mlflow_way_in(home: Home, jobs: Jobs) -> MlflowWayIn | None:
    """Return MLflow's way in, None where it is absent."""
    return MlflowWayIn(home, jobs) if is_here(MLFLOW) else None


def http_app(context: Context, mlflow: MlflowRoutes) -> FastAPI:
    """Return the application of the http port."""
    app = create_app(context, mlflow.routers, mlflow.is_audited)
    app.state.mlflow = mlflow.dialect
    return app


def needs_https() -> bool:
    """Return whether there is a way in that the https port is for."""
    return is_here(AZURE)


def https_app(
    home: Home,
    own: ServerAddress,
    workspace: Workspace,
    context: Context,
    mlflow: MlflowRoutes,
    authorities: Path | None,
) -> SecureApp:
    """Return the application of the https port, in the Azure SDK's dialect.

    authorities: whom clients trust besides us; None for the public ones.
    """
    from mafunzo.entrypoints.azure.application import create_azure_app
    from mafunzo.entrypoints.azure.context import AzureContext
    from mafunzo.entrypoints.azure.job_log import JobLogs
    from mafunzo.entrypoints.azure.wire.envelope import DATASTORES, Place

    for container in DATASTORES.values():
        workspace.blobs.ensure_container(container)
    workspace.blobs.blocks.forget_abandoned()
    certificate = tls.certificate(home, context.names, authorities)
    azure = AzureContext(
        caller=context.identity.owner,
        place=Place(own.https_url),
        identity=context.identity,
        workspace=workspace,
        job_logs=JobLogs(workspace),
        serving=context,
        http_port=own.port,
        mlflow=mlflow.dialect,
    )
    app = create_azure_app(azure, mlflow.routers)
    app.state.mlflow = mlflow.dialect
    return SecureApp(app, str(certificate.certificate), str(certificate.key))


def step_variables(
    mlflow_uri: str,
    mlflow_key: str,
    job: Job,
    run_id: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    access: StepAccess | None = None,
) -> dict[str, str]:
    """Return the environment variables that ways in give to a user's step, by which it finds what it runs in.

    mlflow_uri, mlflow_key: where MLflow is found, and what opens it; run_id: of the run that the step logs into;
    inputs: values as text, files and folders by their paths; outputs: the paths that the step writes to.
    """
    variables: dict[str, str] = {}
    if is_here(MLFLOW):
        from mafunzo.entrypoints.mlflow.step_run import step_variables as mlflow_variables

        variables |= mlflow_variables(mlflow_uri, mlflow_key, job.experiment, run_id)
    if is_here(AZURE):
        from mafunzo.entrypoints.azure.client.environment import Access
        from mafunzo.entrypoints.azure.step_environment import step_variables as azure_variables

        own = None
        if access is not None:
            own = Access(access.own.https_url, access.token, tls.files(access.home).bundle)
        variables |= azure_variables(job.name, job.experiment, run_id, inputs, outputs, own)
    return variables
