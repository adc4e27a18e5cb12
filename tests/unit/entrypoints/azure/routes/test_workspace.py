"""The workspace over Azure's wire, the cloud around it, and pages of lists."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo.entrypoints.azure.wire.envelope import workspace_id
from tests.support.azure_bench import BASE, Bench, azure_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


def test_the_workspace_says_where_everything_is(bench: Bench) -> None:
    shown = bench.owner.get(workspace_id())
    assert (shown["name"], shown["properties"]["discoveryUrl"]) == ("mafunzo", f"{BASE}/discovery")
    group = workspace_id().rpartition("/")[0]
    (listed,) = bench.owner.get(group)["value"]
    assert (listed["id"], listed["properties"]) == (workspace_id(), shown["properties"])
    assert bench.owner.get(f"{group}?kind=hub,project") == {"value": []}


def test_another_workspace_of_the_home_is_not_there(bench: Bench) -> None:
    other = f"{workspace_id().rpartition('/')[0]}/other/computes"
    assert bench.owner.refusal("GET", other)[0] == 404
    elsewhere = other.replace(workspace_id().split("/")[2], "a-subscription-of-azure")
    assert bench.owner.ask("GET", elsewhere).status_code == 200


def test_the_cloud_is_described_to_everybody(bench: Bench) -> None:
    (cloud,) = bench.stranger.get("/metadata/endpoints")
    assert (cloud["resourceManager"], cloud["authentication"]["audiences"]) == (BASE, [BASE])
    assert bench.stranger.get("/discovery")["history"] == BASE


def test_a_token_is_given_for_the_home_s_secret(bench: Bench) -> None:
    http = bench.stranger._http
    secret = {"x-identity-header": bench.identity.header}
    answer = http.get(f"/msi/token?resource={BASE}", headers=secret).json()
    assert (answer["resource"], answer["token_type"]) == (BASE, "Bearer")
    assert bench.identity.check_token(answer["access_token"], frozenset({BASE})) == bench.identity.owner
    assert http.get("/msi/token", headers=secret).status_code == 400
    assert http.get(f"/msi/token?resource={BASE}", headers={"x-identity-header": "wrong"}).status_code == 401


def test_what_nobody_has_taken_is_refused_by_its_noun(bench: Bench) -> None:
    status, message = bench.owner.refusal("GET", "schedules")
    assert (status, "Schedules aren't run here" in message) == (400, True)
    assert bench.stranger.refusal("GET", "schedules")[0] == 401


def test_a_path_may_be_spelled_in_any_way(bench: Bench) -> None:
    spelled = workspace_id().replace("resourceGroups", "resourcegroups").replace("providers", "Providers")
    assert bench.owner.get(f"/mferp/managementfrontend{spelled}/computes")["value"]


def test_a_list_comes_in_pages(bench: Bench) -> None:
    for number in range(3):
        bench.workspace.endpoints.create(f"more-{number}")
    assert len(bench.owner.get("onlineEndpoints?$top=2")["value"]) == 2
    assert [one["name"] for one in bench.owner.get("onlineEndpoints?$skip=3")["value"]] == ["more-2"]
    status, message = bench.owner.refusal("GET", "onlineEndpoints?$top=many")
    assert (status, message) == (400, "$top is 'many', expected a number, 0 or more.")


def test_a_long_list_names_its_next_page(bench: Bench) -> None:
    for number in range(100):
        bench.workspace.endpoints.create(f"more-{number}")
    first = bench.owner.get("onlineEndpoints")
    assert len(first["value"]) == 100 and first["nextLink"].startswith(BASE)
    rest = bench.owner.get(first["nextLink"].removeprefix(BASE))
    assert len(rest["value"]) == 1 and "nextLink" not in rest
