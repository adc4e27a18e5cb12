"""Tests of `mafunzo.control.workspace.retention`: what holds bytes on the disk, and what frees them."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.retention import Holders, free, holders_of, models_made_by, named_artifacts
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.job import ArtifactInput, Job, Step, StepSpec

NOW = datetime.now(UTC)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def artifact(workspace: Workspace, tmp_path: Path) -> str:
    """Bytes that were stored long ago."""
    (folder := tmp_path / "folder").mkdir()
    (folder / "weights").write_bytes(b"x" * 5000)
    stored = workspace.artifacts.put(folder)
    os.utime(workspace.artifacts.manifest_path(stored), (0, 0))
    return stored


def model(name: str, artifact: str, **more: object) -> Asset:
    return Asset(AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, name, "1"), FolderType.CUSTOM_MODEL, artifact, **more)  # type: ignore[arg-type]


def hash_of(digit: str) -> str:
    return f"sha256:{digit * 64}"


def test_every_hash_anywhere_in_an_entity_is_named() -> None:
    asset = model("m", hash_of("1"), properties={"base": {"artifact": hash_of("2")}, "note": f"of {hash_of('3')}"})
    assert named_artifacts(asset) == {hash_of("1"), hash_of("2"), hash_of("3")}
    spec = StepSpec(
        "s", "c:1", "sha256:0", "true", inputs={"data": ArtifactInput(hash_of("4"))}, code_artifact=hash_of("5")
    )
    assert named_artifacts(Step("j", spec, outputs={"out": hash_of("6")})) == {hash_of("4"), hash_of("5"), hash_of("6")}


def test_jobs_their_steps_and_models_hold_bytes_archived_or_not(workspace: Workspace, artifact: str) -> None:
    inputs = {"train": {"artifact": artifact, "name": "x"}}
    workspace.records.jobs.add(Job("by-input", "j", "e", "c:1", inputs=inputs), [])
    step = Step("by-step", StepSpec("s", "c:1", "sha256:0", "true"), outputs={"out": artifact})
    workspace.records.jobs.add(Job("by-step", "j", "e", "c:1"), [step])
    workspace.records.jobs.add(Job("neither", "j", "e", "c:1"), [])
    workspace.records.assets.add(model("hidden", artifact, is_archived=True))
    workspace.records.assets.add(model("base", hash_of("1"), properties={"base_artifact": artifact}))
    found = holders_of(workspace.services, artifact)
    assert (set(found.jobs), set(found.models)) == ({"by-input", "by-step"}, {"hidden:1", "base:1"})
    assert holders_of(workspace.services, hash_of("9")) == Holders()


def test_models_that_came_from_a_job_are_found_archived_or_not(workspace: Workspace, artifact: str) -> None:
    workspace.records.assets.add(model("mine", artifact, properties={"job": "j1"}, is_archived=True))
    workspace.records.assets.add(model("other", artifact, properties={"job": "j2"}))
    assert [str(asset.key) for asset in models_made_by(workspace.services, "j1")] == ["mine:1"]


def test_bytes_that_nothing_names_are_freed_at_once(workspace: Workspace, artifact: str) -> None:
    assert free(workspace.services, [artifact], NOW) >= 5000
    assert not workspace.artifacts.exists(artifact)
    assert free(workspace.services, [artifact], NOW) == 0


def test_bytes_that_something_names_stay(workspace: Workspace, artifact: str) -> None:
    workspace.records.assets.add(model("mine", artifact))
    assert free(workspace.services, [artifact], NOW) == 0
    assert workspace.artifacts.exists(artifact)


@pytest.mark.parametrize(
    "named_until",
    [pytest.param(None, id="no last moment"), pytest.param(NOW - timedelta(hours=1), id="put again since")],
)
def test_bytes_that_may_be_about_to_be_named_stay(
    named_until: datetime | None, workspace: Workspace, artifact: str
) -> None:
    os.utime(workspace.artifacts.manifest_path(artifact))
    assert free(workspace.services, [artifact], named_until) == 0
    assert workspace.artifacts.exists(artifact)
