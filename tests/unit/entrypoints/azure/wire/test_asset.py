"""Bodies of assets on Azure's wire."""

from dataclasses import asdict
from typing import Any

import pytest

from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.asset_request import CodeRequest, DataRequest, ModelRequest
from mafunzo.entities.reference import JobOutputReference, StoredPath, WebAddress
from mafunzo.entrypoints.azure.wire.asset import (
    code_body,
    code_from_body,
    data_body,
    data_from_body,
    model_body,
    model_from_body,
)
from mafunzo.entrypoints.azure.wire.envelope import datastore_uri
from mafunzo.errors import NotSupported


@pytest.mark.parametrize(
    "path", ["/etc", "file:///etc", "etc", "../etc", "azureml:etc:1", "https://example.com/x", "a" * 5000]
)
def test_a_model_is_no_folder_of_the_servers(path: str) -> None:
    with pytest.raises(NotSupported, match="can be registered"):
        model_from_body({"properties": {"modelUri": path}})


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("azureml://jobs/one/outputs/trained_model", JobOutputReference("one", "trained_model")),
        (
            "azureml://datastores/workspaceblobstore/paths/LocalUpload/x/model",
            StoredPath("workspaceblobstore", "LocalUpload/x/model"),
        ),
        (
            "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore/paths/model",
            StoredPath("workspaceblobstore", "model"),
        ),
    ],
)
def test_a_model_is_a_jobs_output_or_an_upload(path: str, source: JobOutputReference | StoredPath) -> None:
    request = model_from_body({"properties": {"modelUri": path}})
    assert (request.source, request.echoes) == (source, {"azure": {"modelUri": path}})


def test_what_a_deployment_would_collect_is_refused_as_data():
    uri = "azureml://datastores/workspaceblobstore/paths/modelDataCollector/chat/blue/model_inputs"
    with pytest.raises(NotSupported, match="data collection isn't supported"):
        data_from_body("collected", {"properties": {"dataUri": uri, "dataType": "uri_folder"}})


LONG = datastore_uri("")


def answered(request: ModelRequest | DataRequest | CodeRequest, properties: dict[str, Any]) -> Asset:
    """Return the version that a request makes, whose properties have these facts."""
    kind = {ModelRequest: AssetType.MODEL, DataRequest: AssetType.DATA, CodeRequest: AssetType.CODE}[type(request)]
    return Asset(
        AssetKey(WORKSPACE_SCOPE, kind, "mine", "3"),
        getattr(request, "folder_type", FolderType.URI_FOLDER),
        properties=properties,
        is_anonymous=request.is_anonymous,
        echoes=request.echoes,
    )


@pytest.mark.parametrize(
    ("uri", "kind", "answer"),
    [
        ("azureml://datastores/workspaceblobstore/paths/a/b.csv", "uri_file", f"{LONG}a/b.csv"),
        ("azureml://datastores/workspaceblobstore/paths/a/b/", "uri_folder", f"{LONG}a/b/"),
        ("azureml://jobs/j/outputs/o", "uri_folder", "azureml://jobs/j/outputs/o"),
        ("azureml:azureml://jobs/j/outputs/o/paths/p/", "uri_folder", "azureml:azureml://jobs/j/outputs/o/paths/p/"),
        ("https://far/words.txt", "uri_file", "https://far/words.txt"),
    ],
)
def test_data_says_where_it_lies_as_it_was_said(uri: str, kind: str, answer: str) -> None:
    sent = {"dataUri": uri, "dataType": kind, "properties": {"p": "q"}, "referencedUris": ["./x"]}
    request = data_from_body("mine", {"properties": sent})
    shown = data_body(answered(request, {"source": asdict(request.source)}))["properties"]
    assert (shown["dataUri"], shown["properties"], shown["referencedUris"]) == (answer, {"p": "q"}, ["./x"])


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        (JobOutputReference("j", "o"), "azureml://jobs/j/outputs/o"),
        (JobOutputReference("j", "o", "p"), "azureml://jobs/j/outputs/o/paths/p"),
        (WebAddress("https://far/words.txt"), "https://far/words.txt"),
        (StoredPath("workspaceblobstore", "a"), f"{LONG}a/"),
    ],
)
def test_data_that_came_another_way_has_an_address_too(
    source: JobOutputReference | WebAddress | StoredPath, answer: str
) -> None:
    request = DataRequest(source=source, folder_type=FolderType.URI_FOLDER)
    assert data_body(answered(request, {"source": asdict(source)}))["properties"]["dataUri"] == answer


def test_data_that_a_step_made_says_where_it_is_shown() -> None:
    request = DataRequest(source=JobOutputReference("j", "o"), folder_type=FolderType.URI_FOLDER)
    shown = data_body(answered(request, {"job": "j", "shown_at": "assets/data/mine/3/o"}))
    assert shown["properties"]["dataUri"] == f"{LONG}assets/data/mine/3/o/"


@pytest.mark.parametrize(
    ("uri", "answer"),
    [
        (f"{LONG}up/m", f"{LONG}up/m"),
        ("azureml://datastores/workspaceblobstore/paths/up/m", "azureml://datastores/workspaceblobstore/paths/up/m"),
        ("azureml://jobs/j/outputs/o", f"{LONG}models/mine/3/model"),
    ],
)
def test_a_model_says_where_its_files_were_uploaded_or_else_are_shown(uri: str, answer: str) -> None:
    sent = {"modelUri": uri, "stage": "Staging", "properties": {"p": "q"}}
    request = model_from_body({"properties": sent})
    facts = {"source": asdict(request.source), "user_properties": dict(request.properties)}
    asset = answered(request, facts)
    shown = model_body(asset, "https://127.0.0.1:8443")["properties"]
    assert (shown["modelUri"], shown["stage"], shown["properties"]) == (answer, "Staging", {"p": "q"})


@pytest.mark.parametrize(
    ("uri", "container", "path"),
    [
        ("https://127.0.0.1:8443/mafunzo.blob.local/code-1/src?sv=1", "code-1", "src"),
        ("azureml://datastores/workspaceblobstore/paths/up/src", "azureml-blobstore", "up/src"),
    ],
)
def test_code_comes_back_as_it_was_sent(uri: str, container: str, path: str) -> None:
    sent = {"codeUri": uri, "isAnonymous": True, "properties": {"hash_sha256": "9e", "hash_version": "2"}}
    request = code_from_body({"properties": sent})
    assert (request.container, request.path, request.hash) == (container, path, "9e")
    shown = code_body(answered(request, {"hash": "9e", "hash_version": "2", "path": path}))["properties"]
    assert sent.items() <= shown.items()
