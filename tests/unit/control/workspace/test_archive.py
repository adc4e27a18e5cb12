"""Tests of `mafunzo.control.workspace.archive`: one version, or all of a name, hidden and shown again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.archive import archive
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.errors import NotFound

COMPONENT = AssetType.COMPONENT


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        for version in ("1", "2", "3"):
            key = AssetKey(WORKSPACE_SCOPE, COMPONENT, "count", version)
            opened.records.assets.add(Asset(key, FolderType.URI_FOLDER))
        yield opened


def shown(workspace: Workspace) -> list[str]:
    return [asset.version for asset in workspace.records.assets.list(WORKSPACE_SCOPE, COMPONENT, "count")]


@pytest.mark.parametrize(
    ("written", "left"),
    [
        pytest.param("count:2", ["3", "1"], id="one version"),
        pytest.param("count", [], id="all of the name"),
    ],
)
def test_versions_are_hidden_and_shown_again(written: str, left: list[str], workspace: Workspace) -> None:
    before = shown(workspace)
    changed = archive(workspace.services, COMPONENT, written)
    assert all(asset.is_archived for asset in changed)
    assert shown(workspace) == left
    for asset in changed:
        archive(workspace.services, COMPONENT, str(asset.key), is_archived=False)
    assert shown(workspace) == before


@pytest.mark.parametrize(
    ("written", "text"),
    [
        pytest.param("other", "No component 'other' is registered.", id="unknown name"),
        pytest.param("count:9", "No component 'count:9'", id="unknown version"),
        pytest.param(
            "azureml://jobs/j/outputs/o", "doesn't name a registered component, expected NAME", id="no version"
        ),
    ],
)
def test_what_is_not_registered_is_refused(written: str, text: str, workspace: Workspace) -> None:
    with pytest.raises(NotFound) as refusal:
        archive(workspace.services, COMPONENT, written)
    assert text in refusal.value.message
    assert shown(workspace) == ["3", "2", "1"]
