"""The role that each route of the https port needs, and which requests are audited."""

from types import SimpleNamespace

import pytest
from fastapi.routing import APIRoute

from mafunzo.entities.user import Role
from mafunzo.entrypoints.azure.access import MAKERS, NEEDS, SECRETS, is_audited
from mafunzo.entrypoints.azure.application import OF_CALLERS, PUBLIC
from mafunzo.entrypoints.azure.routes import mlflow as azure_mlflow
from mafunzo.entrypoints.http.access import READING, Need
from mafunzo.entrypoints.mlflow.access import needed_by_mlflow

ROUTES = [
    route
    for router in (*PUBLIC, azure_mlflow.router, *OF_CALLERS)
    for route in router.routes
    if isinstance(route, APIRoute)
]


def test_the_table_has_every_route_and_no_other() -> None:
    assert {route.name for route in ROUTES} == set(NEEDS)
    assert {name for name, need in NEEDS.items() if need is Need.MAKER} == set(MAKERS)
    assert set(NEEDS) >= SECRETS


def test_routes_without_a_token_are_those_that_ask_for_something_else_or_tell_no_secret() -> None:
    open_ones = {route.name for router in PUBLIC for route in router.routes if isinstance(route, APIRoute)} - {
        "unknown"
    }
    assert {name for name, need in NEEDS.items() if isinstance(need, Need) and need is not Need.MAKER} == open_ones


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_what_a_reader_may_ask_changes_nothing(route: APIRoute) -> None:
    """Those that read by POST are named here."""
    if NEEDS[route.name] is Role.READER and not route.methods <= READING:
        assert route.name in {
            "get_run_data",
            "resolve_outputs",
            "list_secrets",
            "get_deployment_logs",
            "list_nodes",
            "mlflow",
            "unknown",
        }


@pytest.mark.parametrize(
    ("name", "method", "status", "is_written"),
    [
        pytest.param("get_job", "GET", 200, False, id="a look"),
        pytest.param("get_job", "GET", 403, True, id="a refused look"),
        pytest.param("put_job", "PUT", 201, True, id="a change"),
        pytest.param("list_secrets", "POST", 200, True, id="a secret"),
        pytest.param("get_run_data", "POST", 200, False, id="a look by POST"),
    ],
)
def test_changes_secrets_and_refusals_are_audited(name: str, method: str, status: int, is_written: bool) -> None:
    route = next(route for route in ROUTES if route.name == name)
    assert is_audited({"type": "http", "route": route, "method": method, "path": "/"}, status) is is_written


@pytest.mark.parametrize(
    ("path", "is_written"),
    [
        pytest.param("api/2.0/mlflow/experiments/search", False, id="a search"),
        pytest.param("api/2.0/mlflow/experiments/create?x/search", True, id="no search, a query in its path"),
        pytest.param("api/2.0/mlflow/experiments/create", True, id="a change"),
    ],
)
def test_mlflow_s_requests_are_audited_by_the_path_that_goes_on_to_it(path: str, is_written: bool) -> None:
    mlflow = SimpleNamespace(role_of=needed_by_mlflow)
    app = SimpleNamespace(state=SimpleNamespace(context=SimpleNamespace(mlflow=mlflow)))
    route = next(route for route in ROUTES if route.name == "mlflow")
    full = f"/mlflow/v2.0/subscriptions/x/{path}"
    scope = {"type": "http", "route": route, "method": "POST", "path": full, "path_params": {"path": path}, "app": app}
    assert is_audited(scope, 200) is is_written
