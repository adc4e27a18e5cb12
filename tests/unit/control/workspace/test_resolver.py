"""Tests of `mafunzo.control.workspace.resolver`: what a reference names in the store, or why it can't be taken."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace import resolver
from mafunzo.control.workspace.model_source import Upload
from mafunzo.control.workspace.resolver import artifact_of, resolve
from mafunzo.entities.asset import AssetType
from mafunzo.entities.job import ArtifactInput
from mafunzo.entities.reference import AssetReference, LocalPath, PathInput, Reference, StoredPath, WebAddress
from mafunzo.errors import InvalidFile, InvalidParameter, NotFound


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def path(reference: Reference | None, text: str = "as written") -> PathInput:
    return PathInput(reference, "", text)


def test_an_uploaded_file_is_found_by_its_path_in_the_homes_datastore(workspace: Workspace, tmp_path: Path) -> None:
    (file := tmp_path / "rows.csv").write_text("a,b\n")
    artifact = workspace.artifacts.put(file)
    workspace.blobs.publish("azureml-blobstore", "up/rows.csv", artifact)
    source = resolve(workspace.services, "rows", path(StoredPath("workspaceblobstore", "up/rows.csv/rows.csv")))
    assert isinstance(source, ArtifactInput) and source.name == "rows.csv"
    assert workspace.artifacts.open_file(artifact_of(source), "rows.csv").read_text() == "a,b\n"


@pytest.mark.parametrize(
    ("reference", "kind", "told"),
    [
        pytest.param(
            StoredPath("elsewhere", "a"), NotFound, "rows lies in the datastore 'elsewhere'. There is", id="datastore"
        ),
        pytest.param(AssetReference("none"), NotFound, "No data 'none:latest'", id="no such data"),
        pytest.param(None, InvalidParameter, "rows lies at 'as written'. Uploaded files,", id="an unknown address"),
        pytest.param(LocalPath("/tmp"), InvalidParameter, "fetch it first, and name the local path", id="a local path"),
    ],
)
def test_what_cannot_be_taken_is_told(
    workspace: Workspace, reference: Reference | None, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind) as refusal:
        resolve(workspace.services, "rows", path(reference))
    assert told in str(refusal.value)


def test_a_model_of_the_registry_is_a_card_that_is_stored_only_when_it_is_needed(workspace: Workspace) -> None:
    reference = AssetReference("tiny-llama", "1", registry="any", type=AssetType.MODEL)
    source = resolve(workspace.services, "model", path(reference))
    assert isinstance(source, Upload) and source.name == "tiny-llama:1"
    assert workspace.artifacts.exists(artifact_of(source))


def test_a_file_of_the_web_is_looked_for_now_and_fetched_later(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(resolver, "require_file", lambda where, url: asked.append(url))

    def fetch(where: str, url: str, folder: Path) -> Path:
        (file := folder / "iris.csv").write_text("1,2\n")
        return file

    monkeypatch.setattr(resolver, "fetch", fetch)
    source = resolve(workspace.services, "rows", path(WebAddress("https://example.com/iris.csv")))
    assert asked == ["https://example.com/iris.csv"]
    assert isinstance(source, Upload) and source.name == "iris.csv"
    assert [file.path for file in workspace.artifacts.manifest(artifact_of(source))] == ["iris.csv"]


def test_offline_no_file_of_the_web_is_taken(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAFUNZO_OFFLINE", "1")
    with (
        Workspace(workspace.home.root) as offline,
        pytest.raises(InvalidFile, match=r"Mafunzo is set to be offline\. Fetch it first"),
    ):
        resolve(offline.services, "rows", path(WebAddress("https://example.com/iris.csv")))
