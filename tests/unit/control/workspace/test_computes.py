"""Tests of `mafunzo.control.workspace.computes`: clusters under names of the user's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.compute import Compute
from mafunzo.errors import Conflict, InvalidParameter, NotFound


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
