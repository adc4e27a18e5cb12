"""Tests of `mafunzo.control.workspace.components`: which component a name stands for, and the code that it works in."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.asset_request import CodeRequest, ComponentRequest
from mafunzo.entities.component import Component, Source
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import InvalidParameter, NotFound, VersionTaken


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
    asset = workspace.codes.create("c", "1", request)
    assert sorted(file.path for file in workspace.artifacts.manifest(asset.artifact or "")) == [
        "deep/more.py",
        "train.py",
    ]
    assert (asset.properties["hash"], asset.properties["hash_version"], asset.description) == ("abc", "202208", "mine")


def test_a_version_never_changes_its_files(workspace: Workspace) -> None:
    container = workspace.codes.new_container()
    upload(workspace, container, "src/train.py", "print()")
    request = CodeRequest(container=container, path="src")
    first = workspace.codes.create("c", "1", request)
    assert workspace.codes.create("c", "1", request).artifact == first.artifact
    upload(workspace, container, "src/train.py", "changed")
    with pytest.raises(VersionTaken, match=r"Code c:1 exists already"):
        workspace.codes.create("c", "1", request)


def test_what_was_not_uploaded_is_not_registered(workspace: Workspace) -> None:
    container = workspace.codes.new_container()
    for request in (CodeRequest(container=container, path="none"), CodeRequest(container="nothing", path="")):
        with pytest.raises(NotFound):
            workspace.codes.create("c", "1", request)


SAY = Component("say", "2", "command", command="echo")
BARE = AssetReference("say")


@pytest.mark.parametrize(
    ("name", "is_trusted"),
    [pytest.param("say", False, id="a registered one"), pytest.param("finetune", True, id="one that ships")],
)
def test_a_name_stands_for_a_component_and_its_code(workspace: Workspace, name: str, is_trusted: bool) -> None:
    workspace.components.create(ComponentRequest(component=SAY))
    pinned = workspace.components.get(name)
    assert (pinned.component.name, pinned.is_trusted) == (name, is_trusted)
    assert pinned.code.startswith("sha256:")


def test_what_is_registered_under_the_name_of_one_that_ships_wins_but_not_in_the_registry(workspace: Workspace) -> None:
    own = replace(SAY, name="finetune")
    workspace.components.create(ComponentRequest(component=own))
    assert workspace.components.pin(AssetReference("finetune")).component == own
    assert workspace.components.pin(AssetReference("finetune", registry="any")).is_trusted


def test_a_label_called_default_is_the_newest_version(workspace: Workspace) -> None:
    for version in ("1", "2"):
        workspace.components.create(ComponentRequest(component=replace(SAY, version=version)))
    assert workspace.components.pin(replace(BARE, label="default")).component.version == "2"


def test_a_version_may_come_again_in_other_words_but_not_with_another_interface(workspace: Workspace) -> None:
    workspace.components.create(ComponentRequest(component=SAY))
    workspace.components.create(ComponentRequest(component=replace(SAY, description="Says it.")))
    with pytest.raises(VersionTaken, match="Component say:2 exists already, with other content"):
        workspace.components.create(ComponentRequest(component=replace(SAY, command="ls")))


def test_all_that_a_command_names_and_that_isnt_there_is_told_at_once(workspace: Workspace) -> None:
    source = Source(code=AssetReference("folder", "1"), environment=AssetReference("none", "1"))
    with pytest.raises(InvalidParameter) as refusal:
        workspace.components.require_source(source)
    assert len(refusal.value.faults) == 2
    with pytest.raises(InvalidParameter, match=r"code is './src', expected a folder that was uploaded"):
        workspace.components.pinned(SAY, Source(code="./src"))


def test_lists_leave_out_what_is_archived_or_has_no_name_of_its_own(workspace: Workspace) -> None:
    for name, more in (("a", {}), ("b", {"is_archived": True}), ("c", {"is_anonymous": True})):
        workspace.components.create(ComponentRequest(component=replace(SAY, name=name), **more))
    assert [component.name for component in workspace.components.list()] == ["a"]
    assert [component.name for component in workspace.components.list(with_archived=True)] == ["b", "a"]
    assert "finetune" in [component.name for component in workspace.components.on_offer()]
