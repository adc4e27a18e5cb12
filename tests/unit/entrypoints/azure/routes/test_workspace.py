"""The workspace over Azure's wire, the cloud around it, and pages of lists."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.entrypoints.azure.wire.envelope import Place, workspace_id
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


def test_the_tracking_uri_which_mlflow_prints_has_no_key_whoever_asks(bench: Bench) -> None:
    for caller in (bench.owner, bench.user("rita", "reader")):
        uri = caller.get(workspace_id())["properties"]["mlFlowTrackingUri"]
        assert uri == "http://127.0.0.1:8080/mlflow"
    elsewhere = replace(bench.app.state.context, place=Place("https://gpu.example:8443"))
    assert elsewhere.mlflow_uri == "https://gpu.example:8443/mlflow"


def test_another_workspace_of_the_home_is_not_there(bench: Bench) -> None:
    other = f"{workspace_id().rpartition('/')[0]}/other/computes"
    assert bench.owner.refusal("GET", other)[0] == 404
    elsewhere = other.replace(workspace_id().split("/")[2], "a-subscription-of-azure")
    assert bench.owner.ask("GET", elsewhere).status_code == 200
