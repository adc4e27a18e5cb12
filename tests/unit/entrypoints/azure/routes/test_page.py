"""Filter, order and pages of Azure's lists."""

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from mafunzo.entities.asset import REGISTRY_SCOPE, WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.compute import Compute
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entrypoints.azure.reference import NOUNS
from mafunzo.entrypoints.azure.routes.asset import BODIES, AssetRoutes
from mafunzo.entrypoints.azure.routes.page import listed
from mafunzo.entrypoints.azure.wire.asset import version_body
from mafunzo.entrypoints.azure.wire.envelope import registry_arm_id, workspace_id
from tests.support.azure_bench import BASE, Bench, azure_bench
from tests.support.past_jobs import add_past_jobs
from tests.support.rows_read import rows_read


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


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


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("onlineEndpoints", "endpoint.endpoint_body", ["bad", "chat", "good"]),
        ("computes", "compute.compute_body", ["local", "bad", "good"]),
    ],
)
def test_one_thing_that_cannot_be_shown_hides_no_other(
    path: str, body: str, names: list[str], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        bench.workspace.endpoints.create(name)
        bench.workspace.computes.create(Compute(name, "local"))
    assert [one["name"] for one in bench.owner.get(path)["value"]] == names
    whole: Any = pkgutil.resolve_name(f"mafunzo.entrypoints.azure.routes.{body}")

    def broken(thing: Any, *more: Any) -> Any:
        assert thing.name != "bad"
        return whole(thing, *more)

    monkeypatch.setattr(f"mafunzo.entrypoints.azure.routes.{body}", broken)
    assert [one["name"] for one in bench.owner.get(path)["value"]] == [name for name in names if name != "bad"]


@pytest.mark.parametrize("scope", [WORKSPACE_SCOPE, REGISTRY_SCOPE])
@pytest.mark.parametrize("type", [AssetType.MODEL, AssetType.DATA, AssetType.COMPONENT, AssetType.ENVIRONMENT])
def test_one_version_that_cannot_be_shown_hides_no_other(
    scope: str, type: AssetType, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        for version in ("1", "2"):
            key = AssetKey(scope, type, name, version)
            bench.workspace.records.assets.add(Asset(key, FolderType.URI_FOLDER, artifact="sha256:0"))

    def body(asset: Asset, base: str) -> dict[str, Any]:
        assert asset.name != "bad" and asset.version != "1"
        return version_body(asset, {"isArchived": False})

    monkeypatch.setitem(BODIES, type, body)
    monkeypatch.setattr(AssetRoutes, "show", lambda *_: None)
    prefix = registry_arm_id() if scope == REGISTRY_SCOPE else workspace_id()
    noun = f"{prefix}/{NOUNS[type]}"
    names = [one["name"] for one in bench.owner.get(noun)["value"]]
    assert "good" in names and "bad" not in names
    assert [one["name"] for one in bench.owner.get(f"{noun}/good/versions")["value"]] == ["2"]


@pytest.mark.parametrize(
    ("query", "view"),
    [
        pytest.param("", [3, 1], id="the active ones, newest first"),
        pytest.param("listViewType=ArchivedOnly", [2], id="the archived ones"),
        pytest.param("listViewType=All", [3, 2, 1], id="all"),
        pytest.param("listViewType=All&$orderBy=createdtime asc", [1, 2, 3], id="oldest first"),
        pytest.param("orderBy=createdAt+asc", [1, 3], id="oldest first, in another spelling"),
    ],
)
def test_a_list_is_filtered_and_ordered_as_asked(query: str, view: list[int]) -> None:
    request = Request({"type": "http", "query_string": query.encode(), "headers": []})
    assert listed(request, [3, 2, 1], lambda number: number == 2) == view


def pages(bench: Bench, path: str, most_rows: dict[str, int], after: Callable[[], object] = lambda: None) -> list[str]:
    """Follow a list to its end as the SDK does, and return the names; a page reads so many rows of each table at most."""
    names: list[str] = []
    while path:
        with rows_read() as rows:
            page = bench.owner.get(path)
        assert all(rows[table] <= most for table, most in most_rows.items()), rows
        names += [one["name"] for one in page["value"]]
        after()
        path = page.get("nextLink", "").removeprefix(BASE)
    return names


def test_jobs_are_read_a_page_at_a_time_whatever_is_deleted_meanwhile(bench: Bench) -> None:
    add_past_jobs(bench.workspace.database, bench.workspace.home, 250, has_files=False)
    bench.workspace.records.jobs.update(replace(bench.workspace.records.jobs.get("past-7"), is_archived=True))
    deleted = iter(["past-150", "past-50", "past-1"])  # after each page its last job
    names = pages(bench, "jobs", {"job": 101}, lambda: bench.workspace.records.jobs.delete(next(deleted)))
    assert names == [f"past-{number}" for number in range(249, -1, -1) if number != 7]
    assert pages(bench, "jobs?listViewType=ArchivedOnly", {"job": 1}) == ["past-7"]
    team = [int(name.removeprefix("past-")) for name in pages(bench, "jobs?tag=team%3D1", {})]
    assert team == [number for number in range(249, -1, -1) if number % 3 == 1 and number not in (7, 1)]


def test_endpoints_computes_and_deployments_are_read_a_page_at_a_time(bench: Bench) -> None:
    for number in range(230):
        bench.workspace.records.endpoints.add(Endpoint(f"more-{number:03}"), ("a", "b"))
        bench.workspace.computes.create(Compute(f"more-{number:03}", "local"))
        deployment = Deployment("chat", f"more-{number:03}", "chat:1", "sha256:0")
        bench.workspace.records.deployments.add(deployment)
    names = [f"more-{number:03}" for number in range(230)]
    first_deleted = iter(["more-098", "more-198"])

    def delete_last() -> None:
        if name := next(first_deleted, None):
            bench.workspace.records.endpoints.delete(name)

    assert sorted(pages(bench, "onlineEndpoints", {"endpoint": 102}, delete_last)) == ["chat", *names]
    assert pages(bench, "computes", {"compute": 102}) == ["local", *names]
    assert set(names) <= set(pages(bench, "onlineEndpoints/chat/deployments", {"deployment": 102}))
    assert bench.owner.refusal("GET", "computes?$skip=x")[0] == 400


def test_names_and_versions_are_read_a_page_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AssetRoutes, "show", lambda *_: None)
    add_past_jobs(bench.workspace.database, bench.workspace.home, 230, has_files=False)
    data = [f"rows-{number}" for number in range(229, -1, -1)]
    assert pages(bench, "data", {"asset": 101 + 100 * 5}) == data
    models = [*(f"tuned-{number}" for number in range(22, -1, -1)), "chat"]
    assert pages(bench, "models", {"asset": 24 + 24 * 14}) == models
    for number in range(3, 240):
        key = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, "many", str(number))
        bench.workspace.records.assets.add(Asset(key, FolderType.CUSTOM_MODEL, artifact="sha256:0"))
    assert pages(bench, "models/many/versions", {"asset": 102}) == [str(number) for number in range(239, 2, -1)]
    assert bench.owner.get("models/many")["properties"]["nextVersion"] == "240"


def test_what_ships_follows_what_is_shared_on_the_pages_of_the_registry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(95):
        key = AssetKey(REGISTRY_SCOPE, AssetType.MODEL, f"shared-{number}", "1")
        bench.workspace.records.assets.add(Asset(key, FolderType.CUSTOM_MODEL, artifact="sha256:0"))
    monkeypatch.setattr(AssetRoutes, "show", lambda *_: None)
    shipped = [asset.name for asset in bench.workspace.models.on_offer()]
    names = pages(bench, f"{registry_arm_id()}/models", {})
    assert names == [*(f"shared-{number}" for number in range(94, -1, -1)), *dict.fromkeys(shipped)]
    assert bench.owner.refusal("GET", f"{registry_arm_id()}/models?$skip=offer-x")[0] == 400
