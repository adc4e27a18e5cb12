"""Batch endpoints over Azure's wire, without a job that runs: what is asked comes back, and what isn't honoured is refused by name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.entities.job import LiteralInput
from mafunzo.entrypoints.azure.wire.batch import TABLE, batch_deployment_from_body
from mafunzo.entrypoints.azure.wire.envelope import datastore_uri, resource_id
from mafunzo.errors import NotSupported
from tests.support.azure_bench import Bench, azure_bench

MODEL = {"referenceType": "Id", "assetId": resource_id("models", "chat", "versions", "1")}
DEPLOYMENT = "batchEndpoints/rows/deployments/blue"
WITH_DEFAULT = {"properties": {"authMode": "aadToken", "defaults": {"deploymentName": "blue"}}}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(Workspace, "up", lambda _: None)
    with azure_bench(tmp_path) as opened:
        opened.owner.ask("PUT", "batchEndpoints/rows", {"properties": {}, "tags": {"team": "a"}})
        yield opened


def deploy(bench: Bench, name: str = "blue", **properties: Any) -> Any:
    body = {"properties": {"model": MODEL, **properties}}
    return bench.owner.ask("PUT", f"batchEndpoints/rows/deployments/{name}", body)


def invocation(bench: Bench, text: str = '{"prompt": "1"}\n{', **more: Any) -> dict[str, Any]:
    """An invocation with a file that was uploaded."""
    (file := bench.workspace.home.root / "rows.jsonl").write_text(text)
    bench.workspace.blobs.publish("azureml-blobstore", "rows/rows.jsonl", bench.workspace.artifacts.put(file), "")
    rows = {"jobInputType": "UriFile", "uri": datastore_uri("rows/rows.jsonl")}
    return {"properties": {"inputData": {"UriFile": rows}, **more}}


def test_an_endpoint_with_its_deployment_is_made_listed_and_deleted(bench: Bench) -> None:
    assert deploy(bench, miniBatchSize=4, maxConcurrencyPerInstance=3, errorThreshold=2).status_code == 201
    made = bench.owner.ask("PUT", "batchEndpoints/rows", WITH_DEFAULT | {"tags": {"team": "b"}})
    assert bench.owner.get("batchEndpoints/rows") == made.json()
    assert made.json()["tags"] == {"team": "b"}
    assert made.json()["properties"]["defaults"] == {"deploymentName": "blue"}
    assert [one["name"] for one in bench.owner.get("batchEndpoints")["value"]] == ["rows"]
    (shown,) = bench.owner.get("batchEndpoints/rows/deployments")["value"]
    assert shown == bench.owner.get(DEPLOYMENT)
    assert (shown["properties"]["miniBatchSize"], shown["properties"]["outputFileName"]) == (4, TABLE)
    found = bench.workspace.batch_endpoints.deployment("rows", "blue")
    assert found.parameters == {"max_batch": 12, "error_threshold": 2, "output_file_name": TABLE}
    assert bench.owner.ask("DELETE", DEPLOYMENT).status_code == 200
    assert bench.workspace.batch_endpoints.get("rows").default_deployment == ""
    assert bench.owner.ask("DELETE", "batchEndpoints/rows").status_code == 200
    assert bench.owner.refusal("GET", "batchEndpoints/rows")[0] == 404


def test_a_deployment_that_is_made_again_is_changed_and_stays_its_makers(bench: Bench) -> None:
    deploy(bench)
    deploy(bench, miniBatchSize=2, properties={"mafunzo.temperature": "0.5"})
    found = bench.workspace.batch_endpoints.deployment("rows", "blue")
    assert found.parameters == {"max_batch": 2, "temperature": "0.5", "output_file_name": TABLE}
    assert len(bench.workspace.batch_endpoints.deployments("rows")) == 1


@pytest.mark.parametrize(
    ("properties", "faults"),
    [
        pytest.param({"codeConfiguration": {"codeId": "x"}, "environmentId": "e"}, ["code_configuration", "environment"], id="a script"),
        pytest.param({"environmentVariables": {"A": "1"}}, ["environment_variables"], id="variables"),
        pytest.param({"retrySettings": {"maxRetries": 2}}, ["retry_settings"], id="retries"),
        pytest.param({"resources": {"instanceCount": 2, "instanceType": "x"}}, ["instance_count is 2", "resources: instanceType"], id="machines"),
        pytest.param({"outputAction": "SummaryOnly"}, ["output_action is summary_only"], id="a summary"),
        pytest.param({"loggingLevel": "debug"}, ["logging_level is debug"], id="a level"),
        pytest.param({"miniBatchSize": 0}, ["mini_batch_size is 0"], id="no rows at once"),
        pytest.param({"maxConcurrencyPerInstance": 2}, ["needs mini_batch_size"], id="half a number"),
        pytest.param({"deploymentConfiguration": {"x": 1}}, ["a pipeline component isn't deployed"], id="a component"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(properties: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(NotSupported) as refusal:
        batch_deployment_from_body("blue", {"properties": {"model": MODEL, **properties}})
    assert [fault in text for fault, text in zip(faults, refusal.value.faults, strict=True)] == [True] * len(faults)


def test_all_faults_of_a_deployments_settings_come_at_once(bench: Bench) -> None:
    own = {"mafunzo.top_q": "1", "mafunzo.temperature": "hot"}
    properties = {"outputFileName": "out.txt", "errorThreshold": -2, "properties": own, "compute": "far"}
    status, text = bench.owner.refusal("PUT", DEPLOYMENT, {"properties": {"model": MODEL, **properties}})
    assert status == 400
    told = (
        "output_file_name is 'out.txt'",
        "error_threshold is -2",
        "Did you mean top_p?",
        "is 'hot'",
        "compute is 'far'",
    )
    assert [fault for fault in told if fault not in text] == []


def test_what_cannot_be_is_told(bench: Bench) -> None:
    of_model = {"properties": {"model": MODEL}}
    by_key = {"properties": {"authMode": "Key"}}
    refused = bench.owner.refusal
    assert "batch endpoint's name is 'x'" in refused("PUT", "batchEndpoints/x", {"properties": {}})[1]
    assert "auth_mode aad_token" in refused("PUT", "batchEndpoints/rows", by_key)[1]
    assert "has no deployment 'blue'" in refused("PUT", "batchEndpoints/rows", WITH_DEFAULT)[1]
    assert "names no model" in refused("PUT", DEPLOYMENT, {"properties": {}})[1]
    assert "No batch endpoint 'none'" in refused("PUT", "batchEndpoints/none/deployments/blue", of_model)[1]


def test_an_invocation_is_a_job_of_the_endpoint(bench: Bench) -> None:
    deploy(bench, properties={"mafunzo.max_new_tokens": "7"})
    bench.owner.ask("PUT", "batchEndpoints/rows", WITH_DEFAULT)
    literal = {"jobInputType": "Literal", "value": 0.5}
    body = invocation(bench, name="mine", properties={"experimentName": "trial"}, miniBatchSize=3)
    body["properties"]["inputData"]["temperature"] = literal
    answer = bench.owner.ask("POST", "batchEndpoints/rows/jobs", body)
    assert (answer.status_code, answer.json()["name"], answer.json()["properties"]["status"]) == (201, "mine", "Queued")
    handle = bench.workspace.jobs.get("mine")
    assert (handle.job.experiment, list(handle.job.outputs)) == ("trial", ["score"])
    values = {
        name: value.value
        for name, value in handle.step("batch_score").spec.inputs.items()
        if isinstance(value, LiteralInput)
    }
    expected = {"max_new_tokens": 7, "temperature": 0.5, "max_batch": 3, "output_file_name": TABLE}
    assert expected.items() <= values.items()
    assert bench.owner.ask("POST", "batchEndpoints/rows/jobs", body).json()["name"] == "mine"  # asked once more
    for path in ("batchEndpoints/rows/jobs", f"{DEPLOYMENT}/jobs"):
        assert [one["name"] for one in bench.owner.get(path)["value"]] == ["mine"]
    assert bench.owner.get("jobs/mine")["properties"]["outputs"]["score"]["jobOutputType"] == "uri_folder"


def test_an_invocation_that_cannot_be_is_refused(bench: Bench) -> None:
    deploy(bench)
    assert "has no default deployment" in bench.owner.refusal("POST", "batchEndpoints/rows/jobs", invocation(bench))[1]
    bench.owner.ask("PUT", "batchEndpoints/rows", WITH_DEFAULT)
    for more, told in (
        ({"inputData": {}}, "answers one file or folder of rows, and none is given"),
        ({"outputData": {"score": {}}}, "where answers go can't be chosen"),
        ({"retrySettings": {"maxRetries": 1}}, "retry_settings aren't supported"),
        ({"outputFileName": "x"}, "output_file_name is 'x'"),
    ):
        assert told in bench.owner.refusal("POST", "batchEndpoints/rows/jobs", invocation(bench, **more))[1]
    assert not bench.workspace.jobs.list()


def test_a_reader_invokes_nothing_and_others_delete_nothing(bench: Bench) -> None:
    deploy(bench)
    assert bench.user("juma", "reader").refusal("POST", "batchEndpoints/rows/jobs", invocation(bench))[0] == 403
    amina = bench.user("amina", "contributor")
    assert amina.refusal("DELETE", DEPLOYMENT)[0] == 403
    assert amina.refusal("DELETE", "batchEndpoints/rows")[0] == 403
