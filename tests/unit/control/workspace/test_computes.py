"""Tests of `mafunzo.control.workspace.computes`: clusters under names of the user's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace import computes
from mafunzo.entities.compute import ClusterNode, Compute
from mafunzo.errors import Conflict, InvalidParameter, NotFound, Unreachable


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home", port=0) as opened:
        yield opened


def test_a_cluster_is_made_and_changed_and_keeps_its_maker(workspace: Workspace) -> None:
    made = workspace.computes.create(Compute("big", "standard_nc6", tags={"team": "a"}, echoes={"a way in": 1}))
    assert (made.size, made.created_by, made.idle_s) == ("Standard_NC6", workspace.user, 120)
    changed = workspace.acting_as("amina").computes.create(Compute("big", "Standard_NC6", max_instances=4))
    assert (changed.max_instances, changed.created_by, changed.tags) == (4, workspace.user, {})
    assert [compute.name for compute in workspace.computes.list()] == ["local", "big"]


def test_a_change_of_scale_leaves_the_rest(workspace: Workspace) -> None:
    made = workspace.computes.create(
        Compute("big", "Standard_NC6", "low_priority", 1, 3, 60, {"a": "b"}, echoes={"c": 1})
    )
    changed = workspace.computes.rescale("big", {"max_instances": 5})
    assert (changed.min_instances, changed.max_instances, changed.idle_s) == (1, 5, 60)
    assert (changed.tier, changed.tags, changed.echoes) == (made.tier, made.tags, made.echoes)
    with pytest.raises(InvalidParameter, match="min_instances and max_instances are 6 and 5"):
        workspace.computes.rescale("big", {"min_instances": 6})
    with pytest.raises(Conflict, match="local is this machine; it can't be changed"):
        workspace.computes.rescale("local", {"max_instances": 2})


def test_all_that_a_cluster_cannot_be_is_said_at_once(workspace: Workspace) -> None:
    with pytest.raises(InvalidParameter, match="Compute 'x' can't be made") as refusal:
        workspace.computes.create(Compute("x", "Standard_NC6", "cheap", 3, 1))
    assert len(refusal.value.faults) == 3
    with pytest.raises(NotFound, match="No machine size is called 'Standard_NC'"):
        workspace.computes.create(Compute("big", "Standard_NC"))
    assert [compute.name for compute in workspace.computes.list()] == ["local"]


LAB = Compute("lab", "", address="10.0.0.1:6379")
TOKEN = "5ec7e7" * 4


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens that a cluster of two nodes, at whatever address, was asked with."""
    asked: list[str] = []

    def nodes_of(name: str, address: str, token: str) -> list[ClusterNode]:
        asked.append(token)
        return [ClusterNode("10.0.0.1", 8), ClusterNode("10.0.0.2", 8)]

    monkeypatch.setattr(computes, "nodes_of", nodes_of)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    return asked


def test_a_ray_cluster_is_made_listed_found_and_deleted_as_others_are(workspace: Workspace, tokens: list[str]) -> None:
    made = workspace.computes.create(LAB)
    assert (made.size, made.address, made.created_by) == ("", LAB.address, workspace.user)
    assert [compute.name for compute in workspace.computes.list()] == ["local", "lab"]
    assert [node.host for node in workspace.computes.nodes(workspace.computes.find("lab"))] == ["10.0.0.1", "10.0.0.2"]
    workspace.computes.delete("lab")
    assert [compute.name for compute in workspace.computes.list()] == ["local"]


def test_the_token_of_the_environment_is_kept_for_later_and_stands_in_no_row(
    workspace: Workspace, tokens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.computes.create(LAB)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    workspace.computes.nodes(LAB)
    assert tokens == [TOKEN, TOKEN]
    assert not any(TOKEN.encode() in path.read_bytes() for path in workspace.home.root.rglob("*") if path.is_file())
    workspace.computes.delete("lab")
    assert list((workspace.home.root / "tokens").iterdir()) == []


def test_a_ray_cluster_that_does_not_answer_is_not_made(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def nodes_of(name: str, address: str, token: str) -> list[ClusterNode]:
        raise Unreachable("no answer")

    monkeypatch.setattr(computes, "nodes_of", nodes_of)
    with pytest.raises(Unreachable, match="no answer"):
        workspace.computes.create(LAB)
    assert [compute.name for compute in workspace.computes.list()] == ["local"]


def test_all_that_a_ray_cluster_cannot_be_is_said_at_once(workspace: Workspace, tokens: list[str]) -> None:
    with pytest.raises(InvalidParameter, match="Compute 'x' can't be made") as refusal:
        workspace.computes.create(Compute("x", "Standard_NC6", address="10.0.0.1"))
    assert len(refusal.value.faults) == 3
    assert tokens == []
    workspace.computes.create(LAB)
    with pytest.raises(Conflict, match="Compute 'lab' is a Ray cluster, whose nodes Ray counts"):
        workspace.computes.rescale("lab", {"max_instances": 2})
