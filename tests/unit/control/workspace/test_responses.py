"""Tests of `mafunzo.control.workspace.responses`: whose responses are whose, and the conversations that they make."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.store.response import files
from mafunzo.entities.stored_response import StoredResponse
from mafunzo.errors import InvalidParameter, PreviousResponseNotFound, ResponseNotFound

KEYS = {"chat": "keys"}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home", port=0) as opened:
        yield opened


def add(workspace: Workspace, number: int, previous: int = 0, endpoint: str = "chat", owner: str = "keys") -> str:
    """Store a response whose input and output are its number."""
    item = {"type": "message", "role": "user", "content": str(number)}
    answer = {"type": "message", "role": "assistant", "content": str(number)}
    before = id_of(previous) if previous else None
    workspace.responses.put(StoredResponse(id_of(number), endpoint, owner, before, (item,), {"output": [answer]}))
    return id_of(number)


def id_of(number: int) -> str:
    return f"resp_{number:048x}"


@pytest.mark.parametrize(
    "owners",
    [
        pytest.param({"chat": "user:amina"}, id="a user"),
        pytest.param({"chat": "general"}, id="the key of all endpoints"),
        pytest.param({"other": "keys"}, id="another endpoint's key"),
        pytest.param({}, id="no endpoint"),
    ],
)
def test_a_response_is_only_its_owner_s(owners: dict[str, str], workspace: Workspace) -> None:
    id = add(workspace, 1)
    for verb in (workspace.responses.get, workspace.responses.delete):
        with pytest.raises(ResponseNotFound, match=f"no stored response '{id}' that this key may read"):
            verb(id, owners)
    with pytest.raises(PreviousResponseNotFound):
        workspace.responses.conversation(id, owners, 1000)
    assert workspace.responses.get(id, KEYS).id == id


def test_a_conversation_has_all_turns_in_their_order(workspace: Workspace) -> None:
    for number in (1, 2, 3):
        add(workspace, number, number - 1)
    items = workspace.responses.conversation(id_of(3), KEYS, 1000)
    assert [item["content"] for item in items] == ["1", "1", "2", "2", "3", "3"]


def test_a_conversation_may_go_on_over_another_endpoint_that_the_key_opens(workspace: Workspace) -> None:
    add(workspace, 1, endpoint="other", owner="general")
    add(workspace, 2, 1, owner="general")
    owners = {"chat": "general", "other": "general"}
    assert len(workspace.responses.conversation(id_of(2), owners, 1000)) == 4


def test_one_whose_turn_was_deleted_can_be_read_and_not_be_gone_on_with(workspace: Workspace) -> None:
    add(workspace, 1)
    add(workspace, 2, 1)
    workspace.responses.delete(id_of(1), KEYS)
    assert workspace.responses.get(id_of(2), KEYS).previous == id_of(1)
    with pytest.raises(PreviousResponseNotFound) as caught:
        workspace.responses.conversation(id_of(2), KEYS, 1000)
    assert f"no stored response '{id_of(1)}', which response '{id_of(2)}' goes on with" in caught.value.message
    assert caught.value.param == "previous_response_id"


def test_a_conversation_that_is_too_long_is_refused(workspace: Workspace) -> None:
    add(workspace, 1)
    with pytest.raises(InvalidParameter, match="is longer than 10 characters"):
        workspace.responses.conversation(id_of(1), KEYS, 10)


def test_all_turns_of_a_conversation_count_as_used_when_it_goes_on(workspace: Workspace) -> None:
    add(workspace, 1)
    add(workspace, 2, 1)
    for path in files(workspace.home):
        os.utime(path, (0, 0))
    workspace.responses.conversation(id_of(2), KEYS, 1000)
    assert all(path.stat().st_mtime > 0 for path in files(workspace.home))
    assert workspace.prune("30d", ["responses"]).removals == ()


def test_pruning_deletes_those_that_were_not_used(workspace: Workspace) -> None:
    add(workspace, 1)
    add(workspace, 2)
    [old, _] = files(workspace.home)
    os.utime(old, (0, 0))
    report = workspace.prune("30d", ["responses"], apply=True)
    assert [removal.name for removal in report.removals] == [str(old)]
    assert [path.name for path in files(workspace.home)] == [f"{id_of(2)}.json"]
