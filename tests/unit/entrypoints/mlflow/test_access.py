"""Tests of `mafunzo.entrypoints.mlflow.access`: which role a request of MLflow's needs, and which are written down."""

import pytest

from mafunzo.entities.user import Role
from mafunzo.entrypoints.mlflow.access import is_audited, needed_by_mlflow

API = "/mlflow/api/2.0/mlflow"
NEEDS = [
    pytest.param("GET", f"{API}/runs/get", Role.READER, id="looking"),
    pytest.param("HEAD", f"{API}/artifacts/list", Role.READER, id="looking whether it is there"),
    pytest.param("POST", f"{API}/runs/search", Role.READER, id="a search by POST"),
    pytest.param("POST", "/mlflow/graphql", Role.READER, id="the pages' queries"),
    pytest.param("POST", f"{API}/registered-models/get-latest-versions", Role.READER, id="the latest versions by POST"),
    pytest.param("POST", f"{API}/runs/create", Role.CONTRIBUTOR, id="a new run"),
    pytest.param("PATCH", f"{API}/registered-models/update", Role.CONTRIBUTOR, id="a change"),
    pytest.param("PUT", "/mlflow/api/2.0/mlflow-artifacts/artifacts/x", Role.CONTRIBUTOR, id="an upload"),
    pytest.param("PUT", f"{API}/runs/search", Role.OWNER, id="a search is one by POST only"),
    pytest.param("POST", f"{API}/experiments/create?x/search", Role.OWNER, id="no search: a query in its path"),
    pytest.param("POST", f"{API}/experiments/create#/search", Role.OWNER, id="no search: a fragment in its path"),
    pytest.param("POST", f"{API}/runs/search/../create/search", Role.OWNER, id="no search: a way up in its path"),
    pytest.param("POST", f"{API}/traces/delete-traces", Role.OWNER, id="traces go, by POST"),
    pytest.param("DELETE", f"{API}/registered-models/delete-tag", Role.CONTRIBUTOR, id="a tag goes"),
    pytest.param("DELETE", f"{API}/registered-models/alias", Role.CONTRIBUTOR, id="an alias goes"),
    pytest.param("DELETE", f"{API}/model-versions/delete-tag", Role.CONTRIBUTOR, id="a version's tag goes"),
    pytest.param("POST", f"{API}/runs/delete", Role.OWNER, id="a run goes, by POST"),
    pytest.param("DELETE", f"{API}/registered-models/delete", Role.OWNER, id="a model goes"),
    pytest.param("DELETE", f"{API}/anything/else", Role.OWNER, id="anything else goes"),
]


@pytest.mark.parametrize(("method", "path", "role"), NEEDS)
def test_a_request_needs_a_role(method: str, path: str, role: Role) -> None:
    assert needed_by_mlflow(method, path) is role


@pytest.mark.parametrize(("method", "path", "role"), NEEDS)
def test_what_changes_something_is_written_down(method: str, path: str, role: Role) -> None:
    assert is_audited({"method": method, "path": path}, 200) is (role is not Role.READER)


@pytest.mark.parametrize("status", [401, 403])
def test_what_was_refused_is_written_down(status: int) -> None:
    assert is_audited({"method": "GET", "path": f"{API}/runs/get"}, status)


def test_what_is_not_mlflows_is_not_written_down_here() -> None:
    assert not is_audited({"method": "POST", "path": "/v1/chat/completions"}, 401)
