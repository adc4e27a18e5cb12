"""Tests of `mafunzo.entrypoints.serve.ways_in`: one whose package is absent is left out, and the rest goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from mafunzo import Workspace
from mafunzo.entities.job import Job
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.identity import identity_of
from mafunzo.entrypoints.http.limits import Limits
from mafunzo.entrypoints.serve import ways_in
from mafunzo.entrypoints.serve.ways_in import (
    AZURE,
    MLFLOW,
    MlflowRoutes,
    http_app,
    https_app,
    mlflow_way_in,
    needs_https,
    step_variables,
)

for package in (AZURE, MLFLOW):
    pytest.importorskip(package, reason="it is taken away by the tests themselves")

ADDRESS = ServerAddress(1, 1.0, 8080, "2026-01-01T00:00:00+00:00", 8443)
NAMES = ["127.0.0.1"]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def context(workspace: Workspace) -> Context:
    identity = identity_of(workspace.home, workspace.user)
    parts: dict[str, Any] = {"names": NAMES, "limits": Limits(), "identity": identity, "loops": ()}
    parts |= {"audit": SimpleNamespace(append=lambda entry: None), "users": workspace.users}
    return cast(Context, SimpleNamespace(**parts))


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Take a package away."""

    def take(package: str) -> None:
        find_spec = ways_in.find_spec
        monkeypatch.setattr(ways_in, "find_spec", lambda name: None if name == package else find_spec(name))

    return take


MLFLOW_URI = "http://127.0.0.1:8080/mlflow"


def test_mlflows_way_in_begins_no_process_before_it_is_arguments_for(workspace: Workspace) -> None:
    way_in = mlflow_way_in(workspace.home, workspace.jobs)
    assert way_in is not None
    assert way_in.loop.name == "mlflow"
    assert not (workspace.home.root / "mlflow").exists()


def test_mlflows_routes_and_what_they_find_come_together(workspace: Workspace, context: Context) -> None:
    way_in = mlflow_way_in(workspace.home, workspace.jobs)
    assert way_in is not None
    routes = way_in.routes(workspace, context)
    assert [router.prefix for router in routes.routers] == ["/mlflow"]
    assert http_app(context, routes).state.mlflow is routes.dialect
    assert routes.is_audited is not None
    assert routes.is_audited({"path": "/mlflow/x", "method": "GET"}, 401)


def test_without_mlflow_its_way_in_is_left_out(workspace: Workspace, absent: Callable[[str], None]) -> None:
    absent(MLFLOW)
    assert mlflow_way_in(workspace.home, workspace.jobs) is None


def test_without_mlflow_the_rest_of_the_http_port_answers(context: Context) -> None:
    app = http_app(context, MlflowRoutes())
    client = TestClient(app, base_url="http://127.0.0.1")
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/mlflow/").status_code == 404
    assert app.state.mlflow is None


def test_routes_of_other_ways_in_stand_on_the_http_port_beside_openais(context: Context) -> None:
    router = APIRouter()
    router.add_api_route("/beside", lambda: "here")
    client = TestClient(http_app(context, MlflowRoutes((router,))), base_url="http://127.0.0.1")
    assert client.get("/beside").json() == "here"
    assert client.get("/v1/nothing").json()["error"]["code"] == "unknown_url"


def secure(workspace: Workspace, context: Context) -> Any:
    return https_app(workspace.home, ADDRESS, workspace, context, MlflowRoutes(), None)


def test_the_https_port_has_a_certificate_and_the_datastores_containers(workspace: Workspace, context: Context) -> None:
    made = secure(workspace, context)
    assert Path(made.certificate).read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert "PRIVATE KEY" in Path(made.key).read_text()
    assert {container.name for container in workspace.blobs.containers()} == {"azureml", "azureml-blobstore"}
    client = TestClient(made.app, base_url="https://127.0.0.1:8443")
    assert client.get("/metadata/endpoints").json()[0]["resourceManager"] == "https://127.0.0.1:8443"


def test_without_azure_there_is_no_https_port_and_steps_get_none_of_its_variables(
    workspace: Workspace, context: Context, absent: Callable[[str], None]
) -> None:
    job = Job("j1", display_name="j1", experiment="chat", component="")
    arguments = (MLFLOW_URI, "key", job, "j1.s", {"rows": "/in/rows"}, {"result": "/out/result"})
    assert step_variables(*arguments)["AZUREML_ROOT_RUN_ID"] == "j1"
    assert step_variables(*arguments)["AZURE_ML_INPUT_rows"] == "/in/rows"
    assert needs_https()
    absent(AZURE)
    assert not needs_https()
    variables = step_variables(*arguments)
    assert variables["MLFLOW_RUN_ID"] == "j1.s" and all(name.startswith("MLFLOW_") for name in variables)
    absent(MLFLOW)
    assert step_variables(*arguments) == {}, "no step is led to an MLflow that isn't there"
