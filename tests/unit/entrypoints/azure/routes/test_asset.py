"""Versions of assets over Azure's wire, in the workspace: registered, shown, listed and archived."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo.entrypoints.azure.wire.envelope import workspace_id
from tests.support.azure_bench import BASE, Bench, azure_bench
from tests.support.azure_sdk import sdk_client


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


def put(bench: Bench, version: str, **properties: Any) -> Any:
    answer = bench.owner.ask(
        "PUT", f"environments/small/versions/{version}", {"properties": {"image": "x", **properties}}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


def versions(bench: Bench, query: str = "") -> list[str]:
    return [one["name"] for one in bench.owner.get(f"environments/small/versions{query}")["value"]]


def test_a_version_comes_back_as_it_was_put(bench: Bench) -> None:
    made = put(bench, "1", description="d", tags={"a": "b"})
    assert made == bench.owner.get("environments/small/versions/1")
    assert made["id"] == f"{workspace_id()}/environments/small/versions/1"
    assert (made["properties"]["description"], made["properties"]["tags"]) == ("d", {"a": "b"})


def test_what_may_change_of_a_version_does_and_its_content_never(bench: Bench) -> None:
    put(bench, "1", tags={"a": "b"})
    assert put(bench, "1", tags={"a": "c"})["properties"]["tags"] == {"a": "c"}
    status, message = bench.owner.refusal("PUT", "environments/small/versions/1", {"properties": {"image": "other"}})
    assert status == 409 and "Environment small:1 exists already, with other content." in message


def test_versions_are_listed_newest_first_and_without_those_that_are_archived(bench: Bench) -> None:
    put(bench, "1")
    put(bench, "2", isArchived=True)
    put(bench, "3")
    assert versions(bench) == ["3", "1"]
    assert versions(bench, "?listViewType=All&$orderBy=createdtime asc") == ["1", "2", "3"]
    assert versions(bench, "?$top=1") == ["3"]
    (container,) = bench.owner.get("environments")["value"]
    assert (container["name"], container["properties"]["latestVersion"]) == ("small", "3")


def test_a_container_says_which_version_is_next_and_archives_all_of_them(bench: Bench) -> None:
    put(bench, "7")
    assert bench.owner.get("environments/small")["properties"]["nextVersion"] == "8"
    answer = bench.owner.ask("PUT", "environments/small", {"properties": {"isArchived": True}})
    assert (answer.status_code, answer.json()["properties"]["isArchived"]) == (200, True)
    assert (versions(bench), bench.owner.get("environments")["value"]) == ([], [])
    assert bench.owner.get("environments?listViewType=ArchivedOnly")["value"][0]["name"] == "small"
    assert bench.owner.refusal("PUT", "environments/none", {})[1] == "No environment 'none' is registered."


def test_a_name_that_nobody_has_is_not_found(bench: Bench) -> None:
    for noun in ("models", "data", "components", "environments", "codes"):
        status, message = bench.owner.refusal("GET", f"{noun}/none")
        assert status == 404 and message.endswith("'none' is registered."), noun
        assert bench.owner.refusal("GET", f"{noun}/none/versions/1")[0] == 404
        assert bench.owner.get(f"{noun}/none/versions")["value"] == []


@pytest.mark.parametrize("name", ["a b", "-a", "x" * 256])
def test_a_name_that_azure_does_not_take_is_refused(bench: Bench, name: str) -> None:
    status, message = bench.owner.refusal("PUT", f"data/{name}/versions/1", {"properties": {}})
    assert status == 400 and message.startswith("The name of data is '")


def test_a_component_s_newest_version_has_a_label(bench: Bench) -> None:
    spec = {"type": "command", "command": "echo ${{inputs.n}}", "inputs": {"n": {"type": "integer"}}}
    for version, anonymous in (("1", False), ("2", False), ("3", True)):
        name = "hidden" if anonymous else "tell"
        body = {"properties": {"componentSpec": spec, "isAnonymous": anonymous}}
        assert bench.owner.ask("PUT", f"components/{name}/versions/{version}", body).status_code == 201
    assert bench.owner.get("components/tell/versions/azureml_default")["name"] == "2"
    assert [one["name"] for one in bench.owner.get("components")["value"]] == ["tell"]
    assert bench.owner.get("components/hidden/versions/3")["properties"]["isAnonymous"] is True


def test_a_model_s_files_are_shown_at_the_address_in_its_body(bench: Bench) -> None:
    shown = bench.owner.get("models/chat/versions/1")["properties"]
    assert shown["modelUri"].endswith("/datastores/workspaceblobstore/paths/models/chat/1/model")
    assert [one.name for one in bench.workspace.blobs.list("azureml-blobstore", "models/chat/1/")] == [
        "models/chat/1/model/config.json"
    ]


def test_a_curated_environment_is_there_in_every_version_until_one_s_own_has_its_name(bench: Bench) -> None:
    name = "AzureML-sklearn-1.5"
    assert bench.owner.get(f"environments/{name}/versions/30")["name"] == "30"
    assert bench.owner.get(f"environments/{name}")["name"] == name
    assert name not in [one["name"] for one in bench.owner.get("environments")["value"]]
    assert bench.owner.ask("PUT", f"environments/{name}/versions/1", {"properties": {"image": "x"}}).status_code == 201
    assert bench.owner.refusal("GET", f"environments/{name}/versions/30")[0] == 404


def test_code_is_uploaded_into_a_container_of_its_own_and_found_by_its_hash(bench: Bench) -> None:
    answer = bench.owner.ask("POST", "codes/c/versions/1/startPendingUpload", {})
    place = answer.json()["blobReferenceForConsumption"]
    assert place["blobUri"].startswith(f"{BASE}/mafunzo.blob.local/")
    upload = place["credential"]["sasUri"].removeprefix(BASE).replace("?", "/main.py?")
    headers = {"x-ms-blob-type": "BlockBlob"}
    assert bench.stranger.http.put(upload, content=b"print(1)", headers=headers).status_code == 201
    facts = {"hash_sha256": "9e", "hash_version": "2"}
    body = {"properties": {"codeUri": place["blobUri"], "properties": facts}}
    assert bench.owner.ask("PUT", "codes/c/versions/1", body).status_code == 201
    assert [one["name"] for one in bench.owner.get("codes/c/versions?hash=9e&hashVersion=2")["value"]] == ["1"]
    assert bench.owner.get("codes/c/versions?hash=ff")["value"] == []


def test_a_reader_looks_and_registers_nothing(bench: Bench) -> None:
    reader = bench.user("amina", "reader")
    assert reader.get("models")["value"][0]["name"] == "chat"
    status, message = reader.refusal("PUT", "environments/small/versions/1", {"properties": {"image": "x"}})
    assert status == 403 and "may not put environments version: it needs the role contributor" in message


def test_models_are_listed_by_their_stage(bench: Bench) -> None:
    chat = bench.workspace.models.get("chat:1")
    for version, stage in (("1", "Production"), ("2", "Staging"), ("3", None)):
        key = replace(chat.key, name="staged", version=version)
        echoes = {"azure": {"stage": stage}} if stage else {}
        bench.workspace.records.assets.add(replace(chat, key=key, echoes=echoes, created_at=None))

    def listed(stage: str) -> list[str]:
        return [one["name"] for one in bench.owner.get(f"models/staged/versions?stage={stage}")["value"]]

    assert (listed("Production"), listed("staging"), listed("None")) == (["1"], ["2"], [])
    with sdk_client(bench) as client:
        assert [model.version for model in client.models.list("staged", stage="Production")] == ["1"]
        assert len(list(client.models.list("staged"))) == 3
