"""Filter, order and pages of Azure's lists."""

import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from mafunzo.entities.asset import REGISTRY_SCOPE, WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.compute import Compute
from mafunzo.entrypoints.azure.reference import NOUNS
from mafunzo.entrypoints.azure.routes.asset import BODIES, AssetRoutes
from mafunzo.entrypoints.azure.routes.page import listed
from mafunzo.entrypoints.azure.wire.asset import version_body
from mafunzo.entrypoints.azure.wire.envelope import registry_arm_id, workspace_id
from tests.support.azure_bench import BASE, Bench, azure_bench


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
