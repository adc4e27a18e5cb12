"""Online endpoints and their deployments over Azure's wire."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mafunzo.entities.endpoint import DeploymentStatus
from mafunzo.entrypoints.azure.wire.envelope import workspace_id
from tests.support.azure_bench import BASE, Bench, azure_bench
from tests.support.chat_home import TOO_SLOW, deployed


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


def test_an_endpoint_is_made_and_shown_as_it_was_asked_for(bench: Bench) -> None:
    body = {"properties": {"authMode": "Key", "description": "d", "properties": {"x": "1"}}, "tags": {"team": "a"}}
    made = bench.owner.ask("PUT", "onlineEndpoints/fresh", body)
    assert made.status_code == 201
    shown = bench.owner.get("onlineEndpoints/fresh")
    assert shown == made.json()
    assert (shown["properties"]["description"], shown["properties"]["properties"]) == ("d", {"x": "1"})
    assert (shown["tags"], shown["properties"]["scoringUri"]) == ({"team": "a"}, f"{BASE}/endpoints/fresh/score")
    assert [one["name"] for one in bench.owner.get("onlineEndpoints")["value"]] == ["chat", "fresh"]


def test_traffic_is_set_by_the_next_put(bench: Bench) -> None:
    deployed(bench.workspace, "blue", DeploymentStatus.HEALTHY)
    answer = bench.owner.ask("PUT", "onlineEndpoints/chat", {"properties": {"traffic": {"blue": 100}}})
    assert answer.json()["properties"]["traffic"] == {"blue": 100}
    assert bench.workspace.endpoints.get("chat").endpoint.traffic_percent == {"blue": 100}
    status, message = bench.owner.refusal("PUT", "onlineEndpoints/chat", {"properties": {"traffic": {"green": 100}}})
    assert status == 400 and "Endpoint chat has no deployment 'green'." in message


def test_keys_are_listed_and_one_is_replaced(bench: Bench) -> None:
    before = bench.owner.ask("POST", "onlineEndpoints/chat/listKeys").json()
    assert bench.owner.ask("POST", "onlineEndpoints/chat/regenerateKeys", {"keyType": "Secondary"}).status_code == 200
    after = bench.owner.ask("POST", "onlineEndpoints/chat/listKeys").json()
    assert after["primaryKey"] == before["primaryKey"] and after["secondaryKey"] != before["secondaryKey"]
    assert (after["primaryKey"], after["secondaryKey"]) == bench.workspace.endpoints.get("chat").keys


def test_an_endpoint_goes_and_its_operation_says_when(bench: Bench) -> None:
    answer = bench.owner.ask("DELETE", "onlineEndpoints/chat")
    operation = answer.headers["azure-asyncoperation"]
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
    assert operation.startswith(BASE)
    assert bench.owner.get("onlineEndpoints/chat")["properties"]["provisioningState"] == "Deleting"
    assert bench.owner.get(operation.removeprefix(BASE)) == {"status": "InProgress"}
    bench.workspace.records.endpoints.delete("chat")  # as the supervisor does once nothing of it runs
    assert bench.owner.get(operation.removeprefix(BASE)) == {"status": "Succeeded"}


def test_an_endpoint_that_is_not_there_is_named(bench: Bench) -> None:
    status, message = bench.owner.refusal("GET", "onlineEndpoints/chta")
    assert (status, "Did you mean chat?" in message) == (404, True)


def test_who_may_delete_an_endpoint(bench: Bench) -> None:
    status, message = bench.user("amina", "contributor").refusal("DELETE", "onlineEndpoints/chat")
    assert status == 403 and "needs them or an owner" in message
    assert bench.user("juma", "reader").refusal("PUT", "onlineEndpoints/fresh", {})[0] == 403
    assert bench.stranger.refusal("GET", "onlineEndpoints")[0] == 401


# Deployments


BLUE = "onlineEndpoints/chat/deployments/blue"


def body(**properties: Any) -> dict[str, Any]:
    return {"properties": {"model": "azureml:chat:1", **properties}, "sku": {"name": "Default", "capacity": 1}}


def test_a_model_may_be_named_by_its_id(bench: Bench) -> None:
    id = f"{workspace_id()}/models/chat/versions/1"
    assert bench.owner.ask("PUT", BLUE, body(model=id)).json()["properties"]["model"] == id
    assert bench.workspace.deployments.get("chat", "blue").model == "chat:1"


def test_the_end_of_a_log_is_shown(bench: Bench) -> None:
    deployed(bench.workspace, "blue", DeploymentStatus.FAILED, error=TOO_SLOW)
    answer = bench.owner.ask("POST", f"{BLUE}/getLogs", {"tail": 2})
    assert answer.json() == {"content": "a: 1\nb: 2"}
    status, message = bench.owner.refusal("POST", f"{BLUE}/getLogs", {"tail": "all"})
    assert status == 400 and "tail is 'all', expected a number of lines, 1 or more." in message
    assert bench.owner.refusal("POST", "onlineEndpoints/chat/deployments/green/getLogs", {})[0] == 404


@pytest.mark.parametrize(
    ("properties", "status", "message"),
    [
        pytest.param({"model": ""}, 400, "Deployment 'blue' names no model", id="no model"),
        pytest.param({"model": "azureml:chta:1"}, 404, "chta", id="a model that isn't there"),
        pytest.param({"codeConfiguration": {"codeId": "c"}}, 400, "code_configuration", id="a script"),
        pytest.param({"instanceType": "Standard_Odd"}, 404, "No machine size is called", id="unknown size"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(
    bench: Bench, properties: dict[str, Any], status: int, message: str
) -> None:
    code, text = bench.owner.refusal("PUT", BLUE, body(**properties))
    assert (code, message in text) == (status, True), text
    assert bench.workspace.deployments.list() == []
