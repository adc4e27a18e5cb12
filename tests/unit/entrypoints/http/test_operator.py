"""Tests of `mafunzo.entrypoints.http.operator`: whose keys open the operator's routes."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mafunzo import Workspace
from mafunzo.entities.user import Role
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.identity import OPERATOR_AUDIENCE, Caller, identity_of
from mafunzo.entrypoints.http.operator import is_audited, operator_with
from mafunzo.errors import Unauthorized


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def context(workspace: Workspace) -> Context:
    identity = identity_of(workspace.home, workspace.user)
    return cast(Context, SimpleNamespace(operator_key="the key", identity=identity, users=workspace.users))


def test_the_operators_own_key_is_the_homes_owners(context: Context, workspace: Workspace) -> None:
    assert operator_with("the key", context) == Caller(workspace.user, Role.OWNER)


def test_a_users_token_opens_them_in_the_users_role(context: Context, workspace: Workspace) -> None:
    user, token = workspace.users.create("amina", "reader")
    assert operator_with(token, context) == Caller("amina", Role.READER, user.token_id)


def test_what_was_given_for_a_token_opens_them_as_long_as_that_is_the_users(
    context: Context, workspace: Workspace
) -> None:
    user, _ = workspace.users.create("amina", "contributor")
    caller = Caller("amina", user.role, user.token_id)
    key, _ = context.identity.token(OPERATOR_AUDIENCE, caller)
    assert operator_with(key, context) == caller
    workspace.users.rotate("amina")
    with pytest.raises(Unauthorized, match="The token of amina was replaced by a newer one"):
        operator_with(key, context)


def keys_that_open_nothing(context: Context, workspace: Workspace) -> dict[str, str]:
    _, token = workspace.users.create("amina", "owner")
    workspace.users.revoke("amina")
    other, _ = context.identity.token("https://127.0.0.1:8443", context.identity.owner)
    return {
        "The token wasn't given by this server": "wrong",
        "The token is nobody's": f"{token}x",
        "User amina was revoked": token,
        "The token is for https://127.0.0.1:8443, not for this server": other,
    }


def test_other_keys_are_refused_with_their_reason(context: Context, workspace: Workspace) -> None:
    for reason, key in keys_that_open_nothing(context, workspace).items():
        with pytest.raises(Unauthorized, match=reason):
            operator_with(key, context)


@pytest.mark.parametrize(
    ("path", "status", "is_written"),
    [
        pytest.param("/metrics", 401, True, id="refused"),
        pytest.param("/metrics", 403, True, id="forbidden"),
        pytest.param("/metrics", 200, False, id="answered"),
        pytest.param("/v1/models", 401, False, id="another route"),
    ],
)
def test_only_refused_requests_for_metrics_are_written_down(path: str, status: int, is_written: bool) -> None:
    scope: dict[str, Any] = {"path": path}
    assert is_audited(scope, status) is is_written
