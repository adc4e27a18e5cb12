"""Clusters and machine sizes over Azure's wire."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.azure_bench import Bench, azure_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


def cluster(**inner: Any) -> dict[str, Any]:
    return {"properties": {"computeType": "AmlCompute", "properties": {"vmSize": "Standard_NC6", **inner}}}


def test_a_cluster_is_made_listed_and_deleted(bench: Bench) -> None:
    made = bench.owner.ask("PUT", "computes/big", cluster(vmPriority="LowPriority") | {"tags": {"team": "a"}})
    assert made.status_code == 201
    shown = bench.owner.get("computes/big")
    assert shown == made.json()
    assert (shown["properties"]["provisioningState"], shown["tags"]) == ("Succeeded", {"team": "a"})
    assert shown["properties"]["properties"]["vmPriority"] == "LowPriority"
    assert [one["name"] for one in bench.owner.get("computes")["value"]] == ["local", "big"]
    assert bench.owner.ask("POST", "computes/big/listNodes").json() == {"nodes": []}
    assert bench.owner.ask("DELETE", "computes/big").status_code == 200
    assert bench.owner.refusal("GET", "computes/big")[0] == 404


def test_a_cluster_is_made_in_the_name_of_who_asks(bench: Bench) -> None:
    bench.user("amina", "contributor").ask("PUT", "computes/big", cluster())
    assert bench.workspace.computes.find("big").created_by == "amina"
    assert bench.owner.get("computes/big")["systemData"]["createdBy"] == "amina"


def test_only_scale_settings_change_by_a_patch(bench: Bench) -> None:
    bench.owner.ask("PUT", "computes/big", cluster(scaleSettings={"minNodeCount": 1, "maxNodeCount": 2}))
    scale = {"maxNodeCount": 5, "nodeIdleTimeBeforeScaleDown": "PT5M"}
    answer = bench.owner.ask("PATCH", "computes/big", {"properties": {"properties": {"scaleSettings": scale}}})
    assert answer.status_code == 200
    found = bench.workspace.computes.find("big")
    assert (found.size, found.min_instances, found.max_instances, found.idle_s) == ("Standard_NC6", 1, 5, 300)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        pytest.param({"properties": {"computeType": "Kubernetes"}}, 400, "only AmlCompute clusters", id="another kind"),
        pytest.param(cluster(vmSize=""), 400, "Compute 'big' has no size", id="no size"),
        pytest.param(cluster(vmSize="Standard_Odd"), 404, "No machine size is called", id="unknown size"),
        pytest.param(
            cluster(scaleSettings={"minNodeCount": 3, "maxNodeCount": 1}), 400, "are 3 and 1, expected", id="counts"
        ),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(bench: Bench, body: dict[str, Any], status: int, message: str) -> None:
    code, text = bench.owner.refusal("PUT", "computes/big", body)
    assert (code, message in text) == (status, True), text
    assert [compute.name for compute in bench.workspace.computes.list()] == ["local"]


def test_machine_sizes_are_listed_and_nothing_of_a_quota_is_used(bench: Bench) -> None:
    below = "/subscriptions/s/providers/Microsoft.MachineLearningServices/locations/local"
    names = [size["name"] for size in bench.owner.get(f"{below}/vmSizes")["value"]]
    assert names[0] == "local" and "Standard_NC6" in names
    assert bench.owner.get(f"{below}/usages") == {"value": []}
