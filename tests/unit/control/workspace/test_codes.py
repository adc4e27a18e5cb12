"""Tests of `mafunzo.control.workspace.codes`: an uploaded folder becomes a version by its content."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.asset_request import CodeRequest
from mafunzo.errors import Conflict, NotFound


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def upload(workspace: Workspace, container: str, name: str, text: str) -> None:
    with workspace.blobs.draft() as draft:
        draft.write(text.encode())
        workspace.blobs.put(container, name, draft)


def test_each_upload_has_a_container_of_its_own(workspace: Workspace) -> None:
    names = {workspace.codes.new_container() for _ in range(3)}
    assert len(names) == 3
    assert {container.name for container in workspace.blobs.containers()} >= names


def test_a_folder_of_a_container_is_registered_with_its_files_below_it(workspace: Workspace) -> None:
    container = workspace.codes.new_container()
    upload(workspace, container, "src/train.py", "print()")
    upload(workspace, container, "src/deep/more.py", "x")
    upload(workspace, container, "other.py", "not mine")
    request = CodeRequest(container=container, path="src", hash="abc", hash_version="202208", description="mine")
    asset = workspace.codes.register_from(request, "c", "1")
    assert sorted(file.path for file in workspace.artifacts.manifest(asset.artifact or "")) == [
        "deep/more.py",
        "train.py",
    ]
    assert (asset.properties["hash"], asset.properties["hash_version"], asset.description) == ("abc", "202208", "mine")


def test_a_version_never_changes_its_files(workspace: Workspace) -> None:
    container = workspace.codes.new_container()
    upload(workspace, container, "src/train.py", "print()")
    request = CodeRequest(container=container, path="src")
    first = workspace.codes.register_from(request, "c", "1")
    assert workspace.codes.register_from(request, "c", "1").artifact == first.artifact
    upload(workspace, container, "src/train.py", "changed")
    with pytest.raises(Conflict, match=r"Asset paths cannot be updated\. Code c:1 exists already"):
        workspace.codes.register_from(request, "c", "1")


def test_what_was_not_uploaded_is_not_registered(workspace: Workspace) -> None:
    container = workspace.codes.new_container()
    for request in (CodeRequest(container=container, path="none"), CodeRequest(container="nothing", path="")):
        with pytest.raises(NotFound):
            workspace.codes.register_from(request, "c", "1")
