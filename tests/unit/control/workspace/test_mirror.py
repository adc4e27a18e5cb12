"""Tests of `mafunzo.control.workspace.mirror`: folders that stand in for repositories of the hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.mirror import find_mirror, set_mirror
from mafunzo.entities.asset import AssetType
from mafunzo.errors import InvalidFile, InvalidParameter

MODEL, DATA = AssetType.MODEL, AssetType.DATA


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def test_a_mirror_is_found_by_kind_and_repository(workspace: Workspace, tmp_path: Path) -> None:
    asset = set_mirror(workspace.services, MODEL, "org/name", tmp_path)
    assert asset.created_by == workspace.user
    assert find_mirror(workspace.services, MODEL, "org/name") == tmp_path
    assert find_mirror(workspace.services, DATA, "org/name") is None
    assert find_mirror(workspace.services, MODEL, "org/other") is None


def test_a_second_folder_takes_the_place_of_the_first(workspace: Workspace, tmp_path: Path) -> None:
    (second := tmp_path / "second").mkdir()
    set_mirror(workspace.services, MODEL, "org/name", tmp_path)
    set_mirror(workspace.services, MODEL, "org/name", second)
    assert find_mirror(workspace.services, MODEL, "org/name") == second


def test_a_relative_folder_is_kept_as_an_absolute_one(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    set_mirror(workspace.services, DATA, "org/rows", Path("here"))
    assert find_mirror(workspace.services, DATA, "org/rows") == tmp_path / "here"


def test_what_is_no_folder_or_no_repository_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"none isn't a folder\. Name the folder that holds the files of org/name"):
        set_mirror(workspace.services, MODEL, "org/name", tmp_path / "none")
    with pytest.raises(InvalidParameter, match="'name' isn't the name of a repository, expected org/name"):
        set_mirror(workspace.services, MODEL, "name", tmp_path)
    assert find_mirror(workspace.services, MODEL, "org/name") is None


def test_a_mirror_is_not_listed_among_models(workspace: Workspace, tmp_path: Path) -> None:
    set_mirror(workspace.services, MODEL, "org/name", tmp_path)
    assert "org/name" not in {asset.name for asset in workspace.models.list()}
