"""Filter, order and pages of Azure's lists."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request

from mafunzo.entrypoints.azure.routes.page import listed
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
