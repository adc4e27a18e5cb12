"""Tests of `mafunzo.control.workspace.datasets`: what is registered, checked and split, without a job."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.asset import FolderType
from mafunzo.entities.asset_request import DataRequest
from mafunzo.entities.reference import StoredPath
from mafunzo.errors import Conflict, InvalidData, NotFound, VersionTaken

ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def rows(folder: Path, count: int = 20, last: object = ROW) -> Path:
    (file := folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*[ROW] * (count - 1), last]))
    return file


def request(path: str, **more: str) -> DataRequest:
    return DataRequest(source=StoredPath("workspaceblobstore", path), folder_type=FolderType.URI_FOLDER, **more)


def test_a_version_keeps_its_bytes_and_may_change_what_is_said_of_it(workspace: Workspace, tmp_path: Path) -> None:
    for path in ("one", "two"):
        (folder := tmp_path / path).mkdir()
        (folder / "rows.jsonl").write_text(path)
        workspace.blobs.publish("azureml-blobstore", path, workspace.artifacts.put(folder))
    made = workspace.data.create("texts", "1", request("one"))
    changed = workspace.data.create("texts", "1", request("one", description="said"))
    assert (changed.artifact, changed.description) == (made.artifact, "said")
    with pytest.raises(VersionTaken, match="Data texts:1 exists already, with other content"):
        workspace.data.create("texts", "1", request("two"))
    with pytest.raises(NotFound):
        workspace.data.create("texts", "2", request("three"))


def test_rows_are_split_into_three_files_that_have_them_all(workspace: Workspace, tmp_path: Path) -> None:
    written = workspace.data.split(rows(tmp_path), tmp_path / "out", seed=7)
    assert {name: count for name, (_, count) in written.items()} == {"train": 16, "validation": 2, "test": 2}
    for file, count in written.values():
        assert len(file.read_text().splitlines()) == count
    with pytest.raises(Conflict, match=r"exists already\. Name a new folder"):
        workspace.data.split(rows(tmp_path), tmp_path / "out")


def test_a_bad_row_is_told_before_anything_is_written(workspace: Workspace, tmp_path: Path) -> None:
    file = rows(tmp_path, last={"messages": []})
    assert len(workspace.data.check(file).bad) == 1
    with pytest.raises(InvalidData, match="row 20"):
        workspace.data.split(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_has_rows_already_is_not_written_over(workspace: Workspace, tmp_path: Path) -> None:
    rows(tmp_path)
    with pytest.raises(Conflict, match=r"holds jsonl files already. Name a new folder, or pass --overwrite"):
        workspace.data.get("chitchat", to=tmp_path)
