"""Tests of `mafunzo.control.workspace.version`: versions that never change."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.version import archive_all, put_version, referenced, registered, scope_of, share
from mafunzo.entities.asset import REGISTRY_SCOPE, WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.asset_request import ShareRequest
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import Conflict, NotFound

MODEL = AssetType.MODEL


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def version(number: str = "1", **more: Any) -> Asset:
    key = AssetKey(WORKSPACE_SCOPE, MODEL, "chat", number)
    return Asset(key, **{"folder_type": FolderType.CUSTOM_MODEL, "artifact": "sha256:0", **more})


def test_a_new_version_carries_its_maker_and_its_moment(workspace: Workspace) -> None:
    made = put_version(workspace.acting_as("amina").services, version())
    assert made.created_by == "amina"
    assert made.created_at is not None
    assert registered(workspace.services, MODEL) == [made]


def test_description_tags_and_archiving_may_change_and_the_maker_stays(workspace: Workspace) -> None:
    first = put_version(workspace.acting_as("amina").services, version())
    changed = put_version(workspace.services, version(description="new", tags={"a": "b"}, is_archived=True))
    assert (changed.description, changed.tags, changed.is_archived) == ("new", {"a": "b"}, True)
    assert (changed.created_by, changed.created_at) == ("amina", first.created_at)
    assert registered(workspace.services, MODEL) == [changed]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(
            {"artifact": "sha256:1"}, "Asset paths cannot be updated. Model chat:1 exists already", id="bytes"
        ),
        pytest.param(
            {"folder_type": FolderType.MLFLOW_MODEL}, "Model chat:1 exists already, with other content", id="type"
        ),
        pytest.param({"properties": {"a": 1}}, "A version never changes; choose another one.", id="properties"),
        pytest.param({"artifact": None}, "Model chat:1 exists already", id="without bytes"),
    ],
)
def test_other_content_under_a_known_version_is_refused(
    change: dict[str, Any], text: str, workspace: Workspace
) -> None:
    first = put_version(workspace.services, version())
    with pytest.raises(Conflict) as refusal:
        put_version(workspace.services, version(**change))
    assert text in refusal.value.message
    assert registered(workspace.services, MODEL) == [first]


def test_of_one_without_bytes_the_refusal_says_nothing_of_paths(workspace: Workspace) -> None:
    put_version(workspace.services, version(artifact=None))
    with pytest.raises(Conflict) as refusal:
        put_version(workspace.services, version(artifact=None, properties={"a": 1}))
    assert refusal.value.message.startswith("Model chat:1 exists already")


def test_properties_of_one_whose_version_says_its_content_may_change_but_not_its_bytes(workspace: Workspace) -> None:
    put_version(workspace.services, version())
    assert put_version(workspace.services, version(properties={"a": 1}), is_replaced=True).properties == {"a": 1}
    with pytest.raises(Conflict):
        put_version(workspace.services, version(artifact="sha256:1"), is_replaced=True)


def test_a_reference_names_a_version_by_number_by_label_or_the_newest(workspace: Workspace) -> None:
    one, two = (put_version(workspace.services, version(number)) for number in ("1", "2"))
    assert referenced(workspace.services, MODEL, AssetReference("chat", "1")) == one
    assert referenced(workspace.services, MODEL, AssetReference("chat")) == two
    assert referenced(workspace.services, MODEL, AssetReference("chat", label="latest")) == two
    with pytest.raises(NotFound):
        referenced(workspace.services, MODEL, AssetReference("chat", "3"))


def test_what_is_registered_is_listed_newest_first_archived_too(workspace: Workspace) -> None:
    for number in ("1", "2"):
        put_version(workspace.services, version(number, is_archived=number == "2"))
    assert [asset.version for asset in registered(workspace.services, MODEL, "chat")] == ["2", "1"]
    assert registered(workspace.services, MODEL, "other") == []


def test_a_version_is_shared_with_the_registry_once_shown_and_anew(workspace: Workspace) -> None:
    mine = put_version(workspace.services, version(is_archived=True))
    request = ShareRequest(AssetReference("chat", "1"), "public", "7")
    shared = share(workspace.acting_as("amina").services, MODEL, request)
    assert shared.key == AssetKey(REGISTRY_SCOPE, MODEL, "public", "7")
    assert (shared.artifact, shared.is_archived, shared.created_by) == (mine.artifact, False, "amina")
    reference = AssetReference("public", "7", registry="azureml")
    assert scope_of(reference) == REGISTRY_SCOPE
    assert referenced(workspace.services, MODEL, reference) == shared
    with pytest.raises(Conflict):
        share(workspace.services, MODEL, request)


def test_all_versions_of_a_name_are_hidden_and_shown(workspace: Workspace) -> None:
    for number in ("1", "2"):
        put_version(workspace.services, version(number))
    hidden = archive_all(workspace.services, MODEL, "chat", True)
    assert [(asset.version, asset.is_archived) for asset in hidden] == [("2", True), ("1", True)]
    assert registered(workspace.services, MODEL) == hidden
    assert archive_all(workspace.services, MODEL, "chat", False) == [replace(one, is_archived=False) for one in hidden]
    with pytest.raises(NotFound, match=r"No model 'other' is registered\."):
        archive_all(workspace.services, MODEL, "other", True)
