"""Long-running operations over Azure's wire: how far a deployment is, or its end."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo.entities.endpoint import DeploymentStatus
from mafunzo.entrypoints.azure.wire.envelope import operation_path
from tests.support.azure_bench import BASE, Bench, azure_bench
from tests.support.chat_home import TOO_SLOW, deployed


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


BLUE = "onlineEndpoints/chat/deployments/blue"


def body(**properties: Any) -> dict[str, Any]:
    return {"properties": {"model": "azureml:chat:1", **properties}, "sku": {"name": "Default", "capacity": 1}}


def test_a_deployment_is_begun_and_followed_to_its_end(bench: Bench) -> None:
    answer = bench.owner.ask("PUT", BLUE, body(description="d") | {"tags": {"a": "b"}})
    operation = answer.headers["azure-asyncoperation"].removeprefix(BASE)
    assert (answer.status_code, answer.headers["retry-after"]) == (201, "1")
    assert bench.owner.get(operation) == {"status": "InProgress"}
    waiting = bench.workspace.deployments.get("chat", "blue")
    bench.workspace.records.deployments.update(replace(waiting, status=DeploymentStatus.HEALTHY))
    assert bench.owner.get(operation) == {"status": "Succeeded"}
    shown = bench.owner.get(BLUE)
    assert (shown["properties"]["model"], shown["properties"]["description"]) == ("azureml:chat:1", "d")
    assert (shown["properties"]["provisioningState"], shown["tags"]) == ("Succeeded", {"a": "b"})
    assert [one["name"] for one in bench.owner.get("onlineEndpoints/chat/deployments")["value"]] == ["blue"]


def test_the_operation_of_one_that_failed_says_why(bench: Bench) -> None:
    operation = bench.owner.ask("PUT", BLUE, body()).headers["azure-asyncoperation"].removeprefix(BASE)
    waiting = bench.workspace.deployments.get("chat", "blue")
    bench.workspace.records.deployments.update(replace(waiting, status=DeploymentStatus.FAILED, error=TOO_SLOW))
    found = bench.owner.get(operation)
    assert found["status"] == "Failed"
    assert found["error"]["message"].startswith("It was too slow.")
    assert [detail["message"] for detail in found["error"]["details"]] == ["a: 1", "b: 2"]
    bench.workspace.records.deployments.delete("chat", "blue")
    gone = bench.owner.get(operation)
    assert (gone["status"], gone["error"]["code"]) == ("Failed", "ResourceNotFound")
    assert gone["error"]["message"].startswith("Deployment chat/blue was deleted, or its endpoint")


def test_one_of_several_workers_is_not_all_and_one_that_fails_says_why(bench: Bench) -> None:
    answer = bench.owner.ask("PUT", BLUE, body() | {"sku": {"name": "Default", "capacity": 2}})
    operation = answer.headers["azure-asyncoperation"].removeprefix(BASE)
    first = replace(bench.workspace.deployments.get("chat", "blue"), status=DeploymentStatus.HEALTHY)
    bench.workspace.records.deployments.update(first)
    assert bench.owner.get(operation) == {"status": "InProgress"}
    second = replace(first, number=1, status=DeploymentStatus.FAILED, error=TOO_SLOW)
    bench.workspace.records.deployments.update(first.with_worker(second))
    found = bench.owner.get(operation)
    assert (found["status"], found["error"]["message"].split(".")[0]) == ("Failed", "It was too slow")


def test_a_deployment_goes_and_its_operation_says_when(bench: Bench) -> None:
    deployed(bench.workspace, "blue", DeploymentStatus.HEALTHY)
    answer = bench.owner.ask("DELETE", BLUE)
    operation = answer.headers["azure-asyncoperation"].removeprefix(BASE)
    assert answer.status_code == 202
    assert bench.owner.get(operation) == {"status": "InProgress"}
    bench.workspace.records.deployments.delete("chat", "blue")
    assert bench.owner.get(operation) == {"status": "Succeeded"}


def test_an_operation_that_nobody_began_is_not_there(bench: Bench) -> None:
    status, message = bench.owner.refusal("GET", operation_path("nonsense:chat"))
    assert (status, message) == (404, "No operation 'nonsense:chat' is known.")
