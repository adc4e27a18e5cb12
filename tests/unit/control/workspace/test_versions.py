"""Tests of `mafunzo.control.workspace.versions`: versions that never change."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.versions import followed_by, scope_of
from mafunzo.entities.asset import REGISTRY_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.asset_request import ShareRequest, VersionRequest
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import Conflict, NotFound, VersionTaken

MODEL = AssetType.MODEL


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def put(
    workspace: Workspace,
    version: str = "1",
    properties: Mapping[str, Any] | None = None,
    artifact: str | None = "sha256:0",
    folder_type: FolderType = FolderType.CUSTOM_MODEL,
    is_replaced: bool = False,
    **more: Any,
) -> Asset:
    versions, request = workspace.versions[MODEL], VersionRequest(**more)
    return versions.put("chat", version, request, properties or {}, artifact, folder_type, is_replaced)


def test_a_new_version_carries_its_maker_and_its_moment(workspace: Workspace) -> None:
    made = put(workspace.acting_as("amina"))
    assert made.created_by == "amina"
    assert made.created_at is not None
    assert workspace.versions[MODEL].list() == [made]


def test_description_tags_and_archiving_may_change_and_the_maker_stays(workspace: Workspace) -> None:
    first = put(workspace.acting_as("amina"))
    changed = put(workspace, description="new", tags={"a": "b"}, is_archived=True)
    assert (changed.description, changed.tags, changed.is_archived) == ("new", {"a": "b"}, True)
    assert (changed.created_by, changed.created_at) == ("amina", first.created_at)
    assert workspace.versions[MODEL].list() == [changed]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param({"artifact": "sha256:1"}, "Model chat:1 exists already", id="bytes"),
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
    first = put(workspace)
    with pytest.raises(VersionTaken) as refusal:
        put(workspace, **change)
    assert text in refusal.value.message
    assert refusal.value.has_files
    assert workspace.versions[MODEL].list() == [first]


def test_of_one_without_bytes_the_refusal_says_so(workspace: Workspace) -> None:
    put(workspace, artifact=None)
    with pytest.raises(VersionTaken) as refusal:
        put(workspace, artifact=None, properties={"a": 1})
    assert not refusal.value.has_files


def test_properties_of_one_whose_version_says_its_content_may_change_but_not_its_bytes(workspace: Workspace) -> None:
    put(workspace)
    assert put(workspace, properties={"a": 1}, is_replaced=True).properties == {"a": 1}
    with pytest.raises(Conflict):
        put(workspace, artifact="sha256:1", is_replaced=True)


def test_a_reference_names_a_version_by_number_by_label_or_the_newest(workspace: Workspace) -> None:
    one, two = (put(workspace, number) for number in ("1", "2"))
    assert workspace.versions[MODEL].get(AssetReference("chat", "1")) == one
    assert workspace.versions[MODEL].get(AssetReference("chat")) == two
    assert workspace.versions[MODEL].get(AssetReference("chat", label="latest")) == two
    with pytest.raises(NotFound):
        workspace.versions[MODEL].get(AssetReference("chat", "3"))


def test_what_is_registered_is_listed_newest_first_archived_too(workspace: Workspace) -> None:
    for number in ("1", "2"):
        put(workspace, number, is_archived=number == "2")
    assert [asset.version for asset in workspace.versions[MODEL].list("chat")] == ["2", "1"]
    assert workspace.versions[MODEL].list("other") == []


def test_a_version_is_shared_with_the_registry_once_shown_and_anew(workspace: Workspace) -> None:
    mine = put(workspace, is_archived=True)
    request = ShareRequest(AssetReference("chat", "1"), "public", "7")
    shared = workspace.acting_as("amina").versions[MODEL].share(request)
    assert shared.key == AssetKey(REGISTRY_SCOPE, MODEL, "public", "7")
    assert (shared.artifact, shared.is_archived, shared.created_by) == (mine.artifact, False, "amina")
    reference = AssetReference("public", "7", registry="azureml")
    assert scope_of(reference) == REGISTRY_SCOPE
    assert workspace.versions[MODEL].get(reference) == shared
    with pytest.raises(Conflict):
        workspace.versions[MODEL].share(request)


def test_all_versions_of_a_name_are_hidden_and_shown(workspace: Workspace) -> None:
    for number in ("1", "2"):
        put(workspace, number)
    hidden = workspace.versions[MODEL].archive_all("chat", True)
    assert [(asset.version, asset.is_archived) for asset in hidden] == [("2", True), ("1", True)]
    assert workspace.versions[MODEL].list() == hidden
    assert workspace.versions[MODEL].archive_all("chat", False) == [replace(one, is_archived=False) for one in hidden]
    with pytest.raises(NotFound, match=r"No model 'other' is registered\."):
        workspace.versions[MODEL].archive_all("other", True)


@pytest.fixture
def three(workspace: Workspace) -> None:
    """Three versions of a name."""
    for number in ("1", "2", "3"):
        put(workspace, number)


def shown(workspace: Workspace) -> list[str]:
    return [asset.version for asset in workspace.versions[MODEL].list("chat") if not asset.is_archived]


@pytest.mark.parametrize(
    ("written", "left"),
    [
        pytest.param("chat:2", ["3", "1"], id="one version"),
        pytest.param("chat", [], id="all of the name"),
    ],
)
@pytest.mark.usefixtures("three")
def test_versions_are_hidden_and_shown_again(written: str, left: list[str], workspace: Workspace) -> None:
    before = shown(workspace)
    changed = workspace.versions[MODEL].archive(written)
    assert all(asset.is_archived for asset in changed)
    assert shown(workspace) == left
    for asset in changed:
        workspace.versions[MODEL].archive(str(asset.key), is_archived=False)
    assert shown(workspace) == before


@pytest.mark.parametrize(
    ("written", "text"),
    [
        pytest.param("other", "No model 'other' is registered.", id="unknown name"),
        pytest.param("chat:9", "No model 'chat:9'", id="unknown version"),
        pytest.param("azureml://jobs/j/outputs/o", "doesn't name a registered model, expected NAME", id="no version"),
    ],
)
@pytest.mark.usefixtures("three")
def test_what_is_not_registered_is_not_hidden(written: str, text: str, workspace: Workspace) -> None:
    with pytest.raises(NotFound) as refusal:
        workspace.versions[MODEL].archive(written)
    assert text in refusal.value.message
    assert shown(workspace) == ["3", "2", "1"]


def test_what_is_on_offer_is_read_only_for_a_page_that_has_room_for_it() -> None:
    reads: list[str] = []

    def offers() -> list[str]:
        reads.append("read")
        return ["x", "y"]

    def registered(before: str | None, limit: int | None) -> list[str]:
        names = ["a", "b"]
        return names[names.index(before) + 1 if before else 0 :][:limit]

    def page(limit: int | None, before: str | None = None) -> list[str]:
        return followed_by(offers, str, lambda last: registered(last, limit), limit, before)

    assert (page(2), reads) == (["a", "b"], [])
    assert (page(3), page(None)) == (["a", "b", "x"], ["a", "b", "x", "y"])
    assert (page(2, "b"), page(2, "x")) == (["x", "y"], ["y"])
