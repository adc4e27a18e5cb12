"""Tests of `mafunzo.control.pipelines.delivery`."""

from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.pipelines.delivery import deliver
from mafunzo.entities.asset import WORKSPACE_SCOPE, AssetType, FolderType
from mafunzo.entities.asset_request import DataRequest
from mafunzo.entities.blob import HOME_CONTAINER, HOME_DATASTORE
from mafunzo.entities.job import ROOT, Destination, Job, Step, StepSpec
from mafunzo.entities.reference import StoredPath
from mafunzo.errors import Conflict


@pytest.fixture
def workspace(tmp_path: Path):
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def deliver_to(workspace: Workspace, tmp_path: Path):
    """Deliver the output `out` of a step of a new job, whose one file has a text in it."""

    def deliver_to(job: str, destination: Destination, text: str = "rows") -> None:
        if job not in {known.name for known in workspace.jobs.list()}:
            workspace.records.jobs.add(Job(job, job, "e", "c:1", created_by="amina"), [])
        (folder := tmp_path / text).mkdir(exist_ok=True)
        (folder / "rows.txt").write_text(text)
        step = Step(job, StepSpec("s", "c:1", "code", "true"))
        deliver(destination, workspace.artifacts.put(folder), step, "out", workspace.records, workspace.blobs)

    return deliver_to


def versions(workspace: Workspace, kind: AssetType) -> list[tuple[str, str]]:
    return [
        (asset.version, asset.created_by) for asset in workspace.records.assets.list(WORKSPACE_SCOPE, kind, "found")
    ]


def test_an_output_becomes_the_next_version_and_only_once(workspace: Workspace, deliver_to) -> None:
    destination = Destination("uri_folder", asset_name="found")
    for job in ("one", "one", "two"):  # the second time is after a crash
        deliver_to(job, destination)
    assert versions(workspace, AssetType.DATA) == [("2", "amina"), ("1", "amina")]
    deliver_to("three", Destination("custom_model", asset_name="found"))
    assert versions(workspace, AssetType.MODEL) == [("1", "amina")]


def test_a_version_that_is_asked_for_keeps_its_bytes(workspace: Workspace, deliver_to) -> None:
    destination = Destination("uri_folder", asset_name="found", asset_version="7")
    deliver_to("one", destination)
    deliver_to("two", destination)
    with pytest.raises(Conflict, match="Output out is to be data found:7, which has other bytes already"):
        deliver_to("three", destination, text="others")
    assert versions(workspace, AssetType.DATA) == [("7", "amina")]


def test_an_output_is_shown_under_a_path_of_the_datastore(workspace: Workspace, deliver_to) -> None:
    deliver_to("one", Destination("uri_folder", path="results/may"))
    assert [blob.name for blob in workspace.blobs.list(HOME_CONTAINER, "results/")] == ["results/may/rows.txt"]


def test_a_file_is_shown_as_the_path_and_one_with_other_bytes_takes_its_place(workspace: Workspace, tmp_path) -> None:
    def deliver_file(job: str, text: str) -> None:
        (tmp_path / "out").write_text(text)
        step = Step(job, StepSpec("s", "c:1", "code", "true", outputs={"out": "uri_file"}))
        artifact = workspace.artifacts.put(tmp_path / "out")
        destination = Destination("uri_file", path="my/rows.csv")
        deliver(destination, artifact, step, "out", workspace.records, workspace.blobs)

    for text in ("first", "first", "second"):
        deliver_file(text, text)
    (shown,) = workspace.blobs.list(HOME_CONTAINER)
    assert (shown.name, workspace.blobs.path(shown).read_text()) == ("my/rows.csv", "second")
    taken = workspace.artifacts.checkout(workspace.blobs.artifact(HOME_CONTAINER, "my/rows.csv"), tmp_path / "taken")
    assert taken.name == "rows.csv"


def test_what_is_registered_is_shown_at_a_path_of_its_own(workspace: Workspace, deliver_to) -> None:
    for job, text in (("one", "first"), ("two", "second")):
        for _ in range(2):  # the second time is after a crash
            deliver_to(job, Destination("uri_folder", asset_name="found"), text)
    deliver_to("three", Destination("custom_model", asset_name="found"), "third")
    shown = {blob.name: workspace.blobs.path(blob).read_text() for blob in workspace.blobs.list(HOME_CONTAINER)}
    assert shown == {
        "assets/data/found/1/out/rows.txt": "first",
        "assets/data/found/2/out/rows.txt": "second",
        "models/found/1/model/rows.txt": "third",
    }
    newest, oldest = workspace.records.assets.list(WORKSPACE_SCOPE, AssetType.DATA, "found")
    assert (newest.properties["shown_at"], oldest.properties["shown_at"]) == (
        "assets/data/found/2/out",
        "assets/data/found/1/out",
    )


def test_one_that_was_registered_before_keeps_its_address(workspace: Workspace, deliver_to) -> None:
    deliver_to("one", Destination("uri_folder", asset_name="found"))
    (asset,) = workspace.records.assets.list(WORKSPACE_SCOPE, AssetType.DATA, "found")
    workspace.blobs.withdraw(HOME_CONTAINER, "assets")
    old = {"job": "one", "step": "s", "output": "out", "source": {"job": "one", "output": "out", "path": ""}}
    workspace.records.assets.update(replace(asset, properties=old))
    deliver_to("one", Destination("uri_folder", asset_name="found"))
    assert workspace.records.assets.get(asset.key).properties == old
    assert workspace.blobs.list(HOME_CONTAINER) == []


def test_data_that_a_step_made_keeps_its_bytes_when_something_is_said_of_it(workspace: Workspace, tmp_path) -> None:
    workspace.records.jobs.add(Job("one", "one", "e", "c:1", created_by="amina"), [])
    (tmp_path / "out" / "empty").mkdir(parents=True)  # which no blobs show
    (tmp_path / "out" / "rows.txt").write_text("rows")
    artifact, step = workspace.artifacts.put(tmp_path / "out"), Step("one", StepSpec("s", "c:1", "code", "true"))
    deliver(Destination("uri_folder", asset_name="found"), artifact, step, "out", workspace.records, workspace.blobs)
    request = DataRequest(
        source=StoredPath(HOME_DATASTORE, "assets/data/found/1/out"),
        folder_type=FolderType.URI_FOLDER,
        description="said",
        is_archived=True,
    )
    changed = workspace.data.create("found", "1", request)
    assert (changed.artifact, changed.description, changed.is_archived) == (artifact, "said", True)


def test_an_output_is_shown_at_the_root_of_the_datastore(workspace: Workspace, deliver_to) -> None:
    deliver_to("one", Destination("uri_folder", path=ROOT))
    assert [blob.name for blob in workspace.blobs.list(HOME_CONTAINER)] == ["rows.txt"]
