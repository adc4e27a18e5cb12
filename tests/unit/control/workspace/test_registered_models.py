"""The names of models: with and without versions, what is said of them, and their labels."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.registered_models import RegisteredModels
from mafunzo.entities.asset import WORKSPACE_SCOPE, AssetKey, AssetType
from mafunzo.entities.batch import BatchDeployment, BatchEndpoint
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import Conflict, InvalidParameter, NotFound


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def names(workspace: Workspace) -> RegisteredModels:
    return RegisteredModels(workspace.services)


def register(workspace: Workspace, tmp_path: Path, name: str, text: str = "1") -> None:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_text(text)
    workspace.models.register(folder, name=name)


def test_a_name_may_be_there_before_its_first_version(
    workspace: Workspace, names: RegisteredModels, tmp_path: Path
) -> None:
    names.create("chat", "talks", {"team": "one"})
    assert names.get("chat").versions == ()
    assert workspace.models.list("chat") == []
    register(workspace, tmp_path, "chat")
    found = names.get("chat")
    assert ([v.version for v in found.versions], found.description, found.tags) == (["1"], "talks", {"team": "one"})


def test_a_model_that_was_registered_has_a_name_and_something_may_be_said_of_it(
    workspace: Workspace, names: RegisteredModels, tmp_path: Path
) -> None:
    register(workspace, tmp_path, "chat")
    names.update("chat", description="talks")
    names.update("chat", tags={"team": "one"})
    assert [(m.name, m.description, m.tags) for m in names.list()] == [("chat", "talks", {"team": "one"})]


def test_a_name_is_taken_once_and_has_no_separators(names: RegisteredModels) -> None:
    names.create("chat")
    with pytest.raises(Conflict, match="under the name 'chat' already"):
        names.create("chat")
    for name in ("", "a/b", "a:b", "a@b"):
        with pytest.raises(InvalidParameter, match="expected one without any of / : @"):
            names.create(name)
    with pytest.raises(NotFound, match="under the name 'toy'"):
        names.update("toy", description="x")


def test_labels_belong_to_a_name(workspace: Workspace, names: RegisteredModels, tmp_path: Path) -> None:
    register(workspace, tmp_path, "chat")
    register(workspace, tmp_path, "chat", "2")
    records, of_name = workspace.records, (WORKSPACE_SCOPE, AssetType.MODEL, "chat")
    for number, label in (("1", "safe"), ("1", "best"), ("2", "best")):
        records.labels.set(AssetKey(*of_name, number), label)
    assert names.get("chat").labels == {"best": "2", "safe": "1"}
    assert [records.labels.delete(*of_name, "best"), records.labels.delete(*of_name, "best")] == [True, False]
    assert names.get("chat").labels == {"safe": "1"}


def test_a_name_goes_with_all_of_its_versions_or_not_at_all(
    workspace: Workspace, names: RegisteredModels, tmp_path: Path
) -> None:
    register(workspace, tmp_path, "chat")
    register(workspace, tmp_path, "chat", "2")
    workspace.records.endpoints.add(Endpoint("ask"), ("key 1", "key 2"))
    workspace.records.deployments.add(Deployment(endpoint="ask", name="blue", model="chat:1", artifact="sha256:1"))
    with pytest.raises(Conflict, match=r"served by ask/blue \(chat:1\)"):
        names.delete("chat")
    assert len(names.get("chat").versions) == 2
    workspace.records.deployments.delete("ask", "blue")
    workspace.records.batch_endpoints.put(BatchEndpoint("rows"))
    workspace.records.batch_deployments.put(BatchDeployment("rows", "night", model="chat:2"))
    with pytest.raises(Conflict, match=r"served by batch endpoint rows/night \(chat:2\)"):
        names.delete("chat")
    with pytest.raises(Conflict, match=r"Model chat:2 is served by batch endpoint rows/night\. Delete"):
        workspace.models.delete("chat:2")
    workspace.records.batch_deployments.delete("rows", "night")
    names.delete("chat")
    assert names.find("chat") is None


def test_a_version_is_changed_labelled_and_registered_once_more(
    workspace: Workspace, names: RegisteredModels, tmp_path: Path
) -> None:
    register(workspace, tmp_path, "chat")
    versions = workspace.versions[AssetType.MODEL]
    version = versions.get(AssetReference("chat", "1"))
    names.set_label(version, "best")
    changed = versions.change(versions.get(AssetReference("chat", label="best")), description="said", is_archived=True)
    assert (versions.get(AssetReference("chat", "1")), changed.is_archived) == (changed, True)
    names.create("talk")
    copy = names.copy_version(changed, "talk", "again", {"a": "b"})
    assert (str(copy.key), copy.artifact, copy.description, copy.is_archived) == (
        "talk:1",
        version.artifact,
        "again",
        False,
    )
    names.delete_label("chat", "best")
    with pytest.raises(NotFound, match="label 'best'"):
        versions.get(AssetReference("chat", label="best"))
    with pytest.raises(NotFound, match="No model 'chat:2'"):
        versions.get(AssetReference("chat", "2"))
