"""The registry over Azure's wire: what ships with Mafunzo stays as it is, what is shared may change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.workspace.shipped_component import shipped_names
from mafunzo.entities.asset import AssetType
from mafunzo.entrypoints.azure.routes.registry import instead_of
from mafunzo.entrypoints.azure.wire.envelope import registry_arm_id, workspace_id
from tests.support.azure_bench import BASE, Bench, azure_bench

REG = registry_arm_id()
PIPELINE = "chat_completion_pipeline"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


def share(bench: Bench, noun: str, name: str, **destination: str) -> Any:
    source = {"sourceAssetId": f"{workspace_id()}/{noun}/{name}/versions/1"}
    return bench.owner.ask("POST", f"{REG}/import", {"properties": source | destination})


def test_the_one_registry_is_found_and_no_other(bench: Bench) -> None:
    place = bench.stranger.get("/registrymanagement/v1.0/registries/azureml/discovery")
    assert (place["registryName"], place["primaryRegionResourceProviderUri"]) == ("azureml", f"{BASE}/")
    assert [one["name"] for one in bench.owner.get(REG.rpartition("/")[0])["value"]] == ["azureml"]
    assert bench.owner.get(REG)["properties"]["discoveryUrl"].startswith(f"{BASE}/registrymanagement/")
    other = REG.replace("registries/azureml", "registries/other")
    for path in (other, f"{other}/models", f"{other}/models/m/versions/1"):
        status, message = bench.owner.refusal("GET", path)
        assert (status, message) == (404, "No registry is called 'other'. There is 'azureml'.")
    assert bench.owner.refusal("POST", f"{other}/import", {})[0] == 404


@pytest.mark.parametrize("noun", ["models", "components", "environments"])
def test_what_ships_is_listed_with_its_newest_version(bench: Bench, noun: str) -> None:
    first = bench.owner.get(f"{REG}/{noun}")["value"][0]
    name, version = first["name"], first["properties"]["latestVersion"]
    assert bench.owner.get(f"{REG}/{noun}/{name}")["properties"]["latestVersion"] == version
    shown = bench.owner.get(f"{REG}/{noun}/{name}/versions/{version}")
    assert shown["id"] == f"azureml://registries/azureml/{noun}/{name}/versions/{version}"
    assert shown["type"].endswith(f"registries/{noun}/versions")
    assert version in [one["name"] for one in bench.owner.get(f"{REG}/{noun}/{name}/versions")["value"]]


def test_a_component_that_ships_declares_its_inputs_with_every_number_as_a_text(bench: Bench) -> None:
    assert {one["name"] for one in bench.owner.get(f"{REG}/components")["value"]} == set(shipped_names())
    (shown,) = bench.owner.get(f"{REG}/components/{PIPELINE}/versions?$top=1")["value"]
    spec = shown["properties"]["componentSpec"]
    assert (spec["name"], spec["version"], spec["type"]) == (PIPELINE, shown["name"], "pipeline")
    declared = spec["inputs"]["num_train_epochs"]
    assert (declared["type"], isinstance(declared["default"], str)) == ("Number", True)


def test_a_version_that_is_not_there_is_told_with_those_that_are(bench: Bench) -> None:
    version = bench.owner.get(f"{REG}/components/{PIPELINE}")["properties"]["latestVersion"]
    status, message = bench.owner.refusal("GET", f"{REG}/components/{PIPELINE}/versions/none")
    assert (status, message) == (404, f"The registry has component '{PIPELINE}' of version {version}, not none.")
    status, message = bench.owner.refusal("GET", f"{REG}/models/none")
    assert status == 404 and message.startswith("The registry has no model 'none'. There are: Llama-3.2-1B-Instruct, ")
    assert bench.owner.get(f"{REG}/models/none/versions")["value"] == []


def test_what_ships_is_neither_changed_nor_shared_over(bench: Bench) -> None:
    for path in (f"{REG}/components/{PIPELINE}", f"{REG}/components/{PIPELINE}/versions/1"):
        status, message = bench.owner.refusal("PUT", path, {"properties": {"isArchived": True}})
        assert status == 400 and message.startswith("The registry 'azureml' has what ships with Mafunzo")
    bench.owner.ask("PUT", "environments/small/versions/1", {"properties": {"image": "x"}})
    curated = bench.owner.get(f"{REG}/environments")["value"][0]["name"]
    answer = share(bench, "environments", "small", destinationName=curated)
    assert answer.status_code == 409
    assert f"The registry's environment '{curated}' ships with Mafunzo." in answer.json()["error"]["message"]


def test_what_is_shared_is_listed_changed_and_archived(bench: Bench) -> None:
    answer = share(bench, "models", "chat", destinationName="ours", destinationVersion="7")
    assert (answer.status_code, answer.content) == (200, b"")
    path = f"{REG}/models/ours/versions/7"
    assert bench.owner.get(path)["properties"]["modelUri"] == f"{BASE}/azureml-registry/models/ours/7/model"
    changed = bench.owner.ask("PUT", path, {"properties": {"description": "d", "tags": {"a": "b"}}})
    assert (changed.status_code, changed.headers["retry-after"]) == (202, "1")
    assert (bench.owner.get(path)["properties"]["description"]) == "d"
    archived = bench.owner.ask("PUT", f"{REG}/models/ours", {"properties": {"isArchived": True}})
    assert (archived.status_code, archived.json()["properties"]["isArchived"]) == (201, True)
    assert "ours" not in {one["name"] for one in bench.owner.get(f"{REG}/models")["value"]}
    assert "ours" in {one["name"] for one in bench.owner.get(f"{REG}/models?listViewType=All")["value"]}
    assert bench.owner.refusal("PUT", f"{REG}/models/ours/versions/8", {"properties": {}})[0] == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param({}, "sourceAssetId names no version of an asset of this workspace.", id="nothing"),
        pytest.param(
            {"properties": {"sourceAssetId": f"{workspace_id()}/codes/c/versions/1"}},
            "code can't be shared. These can: models, components, environments, data.",
            id="code",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(bench: Bench, body: Any, message: str) -> None:
    assert bench.owner.refusal("POST", f"{REG}/import", body) == (400, message)


def test_the_files_of_a_shared_model_are_published_when_a_client_asks_where_they_are(bench: Bench) -> None:
    share(bench, "models", "chat", destinationName="ours")
    place = bench.owner.ask("POST", f"{REG}/datarefs/ours/versions/1", {}).json()["blobReferenceForConsumption"]
    assert place["blobUri"] == f"{BASE}/azureml-registry"
    signature = place["credential"]["sasUri"].partition("?")[2]
    answer = bench.stranger.ask("GET", f"/azureml-registry/models/ours/1/model/config.json?{signature}")
    assert (answer.status_code, answer.text) == (200, "{}")


@pytest.mark.parametrize(
    ("type", "name", "told"),
    [
        (AssetType.COMPONENT, "text_generation_pipeline", "Use chat_completion_pipeline: give each row as messages"),
        (AssetType.COMPONENT, "question_answering_pipeline", "Use chat_completion_pipeline: give each row as messages"),
        (AssetType.COMPONENT, "text_classification_pipeline", "Only chat models are tuned here"),
        (AssetType.COMPONENT, "transformers_image_classification_pipeline", "Only chat models are tuned here"),
        (AssetType.COMPONENT, "model_evaluation_pipeline", "evaluates the tuned model against its base"),
        (AssetType.MODEL, "bert-base-uncased", "Only chat models are on offer"),
        (AssetType.COMPONENT, "anything", ""),
    ],
)
def test_what_azures_registry_has_besides_leads_to_what_does_it_here(type: AssetType, name: str, told: str) -> None:
    assert (told in instead_of(type, name)) if told else instead_of(type, name) == ""


def test_what_is_not_there_is_answered_by_what_is(bench: Bench) -> None:
    path = f"{registry_arm_id()}/components/text_generation_pipeline/versions"
    status, message = bench.owner.refusal("GET", f"{path}/1")
    assert (
        status == 404
        and "Use chat_completion_pipeline" in message
        and "There are: batch_score, batch_score_pipeline, chat_completion_pipeline" in message
    )
