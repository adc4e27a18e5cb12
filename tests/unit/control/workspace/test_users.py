"""Tests of `mafunzo.control.workspace.users`: tokens, and whom they let in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.user import Role
from mafunzo.errors import Conflict, InvalidParameter, Unauthorized


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home", port=0) as opened:
        yield opened


def test_a_token_is_found_again_and_stored_nowhere(workspace: Workspace) -> None:
    user, token = workspace.users.create("amina", "reader")
    assert (user.role, user.created_by, workspace.users.with_token(token)) == (Role.READER, workspace.user, user)
    stored = b"".join(path.read_bytes() for path in workspace.home.root.rglob("*") if path.is_file())
    assert token.encode() not in stored and token.removeprefix("mafunzo-").encode() not in stored


def test_a_new_token_takes_the_old_one_s_place(workspace: Workspace) -> None:
    before, old = workspace.users.create("amina", "contributor")
    after, new = workspace.users.rotate("amina")
    assert workspace.users.with_token(new) == after
    with pytest.raises(Unauthorized, match="replaced by a newer one"):
        workspace.users.with_token(old)
    with pytest.raises(Unauthorized, match="replaced by a newer one"):
        workspace.users.with_token_id("amina", before.token_id)


def test_a_revoked_user_is_refused_until_there_is_a_new_token(workspace: Workspace) -> None:
    user, token = workspace.users.create("amina", "owner")
    workspace.users.revoke("amina")
    with pytest.raises(Unauthorized, match="User amina was revoked"):
        workspace.users.with_token(token)
    with pytest.raises(Unauthorized, match="User amina was revoked"):
        workspace.users.with_token_id("amina", user.token_id)
    after, new = workspace.users.rotate("amina")
    assert workspace.users.with_token(new) == workspace.users.with_token_id("amina", after.token_id)


def test_a_deleted_user_is_refused(workspace: Workspace) -> None:
    user, token = workspace.users.create("amina", "owner")
    workspace.users.delete("amina")
    with pytest.raises(Unauthorized, match="nobody's"):
        workspace.users.with_token(token)
    with pytest.raises(Unauthorized, match="amina was deleted"):
        workspace.users.with_token_id("amina", user.token_id)


def test_all_faults_of_a_new_user_are_told_at_once(workspace: Workspace) -> None:
    with pytest.raises(InvalidParameter) as refused:
        workspace.users.create("a b", "king")
    assert refused.value.faults == (
        "the name is 'a b', expected 1 to 64 letters, digits and . _ @ -, no sign first.",
        "the role is 'king', expected reader, contributor, owner.",
    )


def test_the_user_of_the_home_needs_no_other_name(workspace: Workspace) -> None:
    with pytest.raises(Conflict, match="the user of this home"):
        workspace.users.create(workspace.user, "owner")


def test_a_view_makes_things_in_another_name(workspace: Workspace) -> None:
    view = workspace.acting_as("amina")
    assert view.endpoints.create("chat").endpoint.created_by == "amina"
    assert workspace.endpoints.create("talk").endpoint.created_by == workspace.user != "amina"


@pytest.mark.parametrize(
    ("role", "needed", "expected"),
    [(Role.READER, Role.CONTRIBUTOR, False), (Role.CONTRIBUTOR, Role.CONTRIBUTOR, True), (Role.OWNER, Role.READER, True)],
)  # fmt: skip
def test_a_role_includes_those_below_it(role: Role, needed: Role, expected: bool) -> None:
    assert role.includes(needed) is expected
