"""The https port's application: which path leads where, and how an error is answered."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter

from mafunzo.entrypoints.azure.application import create_azure_app
from mafunzo.entrypoints.azure.wire.envelope import workspace_id
from tests.support.azure_bench import Bench, Client, azure_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


def test_what_nobody_has_taken_is_refused_by_its_noun(bench: Bench) -> None:
    status, message = bench.owner.refusal("GET", "schedules")
    assert (status, "Schedules aren't run here" in message) == (400, True)
    assert bench.stranger.refusal("GET", "schedules")[0] == 401


def test_a_path_may_be_spelled_in_any_way(bench: Bench) -> None:
    spelled = workspace_id().replace("resourceGroups", "resourcegroups").replace("providers", "Providers")
    assert bench.owner.get(f"/mferp/managementfrontend{spelled}/computes")["value"]


def test_an_error_has_azure_s_code_and_its_faults_as_details(bench: Bench) -> None:
    answer = bench.owner.ask("PUT", "computes/c", {"properties": {"properties": []}, "tags": 1})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "UserError")
    assert [detail["message"].partition(" is ")[0] for detail in error["details"]] == ["properties.properties", "tags"]
    assert bench.owner.ask("GET", "computes/none").json()["error"]["code"] == "ResourceNotFound"


def test_routes_of_other_ways_in_come_before_the_one_that_refuses_the_rest(bench: Bench) -> None:
    beside = APIRouter()
    beside.add_api_route("/elsewhere", lambda: {"here": True})
    client = Client(create_azure_app(bench.app.state.context, [beside]), "")
    assert client.get("/elsewhere") == {"here": True}
    assert client.ask("GET", "/nowhere").status_code == 401


def test_a_body_that_is_no_object_is_refused(bench: Bench) -> None:
    status, message = bench.owner.refusal("PUT", "computes/c", [1])
    assert (status, message) == (400, "The request's body isn't a JSON object.")
