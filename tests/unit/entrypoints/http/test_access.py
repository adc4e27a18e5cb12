"""What each route of the https port needs, who has it, and whose keys open the operator's routes."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi.routing import APIRoute
from starlette.requests import Request

from mafunzo import Workspace
from mafunzo.entities.compute import Compute
from mafunzo.entities.user import Role
from mafunzo.entrypoints.azure.access import RULES
from mafunzo.entrypoints.azure.application import OF_CALLERS, PUBLIC
from mafunzo.entrypoints.azure.routes import mlflow as azure_mlflow
from mafunzo.entrypoints.http.access import admit, authorize, caller_of, caller_with, operator_with
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.identity import OPERATOR_AUDIENCE, Attempt, Caller, Identity, identity_of
from mafunzo.entrypoints.mlflow.access import needed_by_mlflow
from mafunzo.errors import Forbidden, NotFound, Unauthorized

ROUTES = [
    route
    for router in (*PUBLIC, azure_mlflow.router, *OF_CALLERS)
    for route in router.routes
    if isinstance(route, APIRoute)
]
READER, CONTRIBUTOR, OWNER = (Caller(f"a {role}", role, "id") for role in Role)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home", port=0) as opened:
        yield opened


@pytest.fixture
def identity(workspace: Workspace) -> Identity:
    return identity_of(workspace.home, workspace.user)


@pytest.fixture
def context(workspace: Workspace, identity: Identity) -> Context:
    return cast(Context, SimpleNamespace(operator_key="the key", identity=identity, users=workspace.users))


def ask(caller: Caller, verb: str, workspace: Workspace, **ids: str) -> None:
    route = next(route for route in ROUTES if route.name == verb)
    authorize(caller, Request({"type": "http", "route": route, "path_params": ids}), workspace, RULES)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        pytest.param("get_job", READER, id="look"),
        pytest.param("put_job", CONTRIBUTOR, id="make"),
        pytest.param("list_keys", CONTRIBUTOR, id="invoke"),
        pytest.param("regenerate_keys", OWNER, id="replace a key"),
    ],
)
def test_a_role_may_do_what_the_table_says(workspace: Workspace, name: str, least: Caller) -> None:
    for caller in (READER, CONTRIBUTOR, OWNER):
        if caller.role.includes(least.role):
            ask(caller, name, workspace)
        else:
            told = f"User {caller.user}, whose role is {caller.role}, may not .*: it needs the role {least.role}"
            with pytest.raises(Forbidden, match=told):
                ask(caller, name, workspace)


def test_a_contributor_deletes_what_they_made_and_an_owner_anything(workspace: Workspace) -> None:
    workspace.acting_as(CONTRIBUTOR.user).computes.create(Compute("mine", "local"))
    workspace.acting_as("amina").computes.create(Compute("other", "local"))
    ask(CONTRIBUTOR, "delete_compute", workspace, name="mine")
    ask(OWNER, "delete_compute", workspace, name="other")
    with pytest.raises(Forbidden, match="may not delete compute: it was made by amina, and needs them or an owner"):
        ask(CONTRIBUTOR, "delete_compute", workspace, name="other")
    with pytest.raises(Forbidden, match="needs the role contributor"):
        ask(READER, "delete_compute", workspace, name="other")
    with pytest.raises(NotFound):
        ask(CONTRIBUTOR, "delete_compute", workspace, name="none")


def test_the_home_s_secret_is_an_owner_s_and_a_token_its_user_s(workspace: Workspace, identity: Identity) -> None:
    user, token = workspace.users.create("amina", "reader")
    assert caller_with(identity.header, identity, workspace.users) == Caller(workspace.user, Role.OWNER)
    assert caller_with(token, identity, workspace.users) == Caller("amina", Role.READER, user.token_id)
    attempt = Attempt("job1", "train", 1)
    of_step = identity.step_token(OPERATOR_AUDIENCE, attempt, "amina")
    caller = caller_with(of_step, identity, workspace.users, lambda one: one == attempt)
    assert caller == Caller("amina", Role.CONTRIBUTOR, attempt.token_id)
    for wrong in ("", token[:-1], user.token_id, identity.header[:-1]):
        with pytest.raises(Unauthorized, match="X-IDENTITY-HEADER lets nobody in"):
            caller_with(wrong, identity, workspace.users)


def test_a_caller_is_looked_up_again_on_each_request(workspace: Workspace, identity: Identity) -> None:
    caller = caller_of(workspace.users.create("amina", "reader")[0])
    assert admit(caller, workspace.users) == caller
    assert admit(identity.owner, workspace.users) == identity.owner
    workspace.users.revoke("amina")
    with pytest.raises(Unauthorized, match="was revoked"):
        admit(caller, workspace.users)
    workspace.users.delete("amina")
    again = caller_of(workspace.users.create("amina", "owner")[0])
    with pytest.raises(Unauthorized, match="replaced by a newer one"):
        admit(caller, workspace.users)
    assert admit(again, workspace.users).role is Role.OWNER


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/mlflow/api/2.0/mlflow/runs/get", Role.READER),
        ("POST", "/mlflow/api/2.0/mlflow/runs/search", Role.READER),
        ("POST", "/mlflow/ajax-api/2.0/mlflow/experiments/search-datasets", Role.READER),
        ("POST", "/mlflow/api/2.0/mlflow/runs/log-batch", Role.CONTRIBUTOR),
        ("PUT", "/mlflow/api/2.0/mlflow-artifacts/artifacts/search", Role.CONTRIBUTOR),
        ("DELETE", "/mlflow/api/2.0/mlflow/registered-models/alias", Role.CONTRIBUTOR),
        ("POST", "/mlflow/api/2.0/mlflow/runs/delete", Role.OWNER),
        ("DELETE", "/mlflow/api/2.0/mlflow/registered-models/delete", Role.OWNER),
        ("DELETE", "/mlflow/api/2.0/mlflow-artifacts/artifacts/1/alias", Role.OWNER),
    ],
)
def test_mlflow_s_requests_need_what_they_do(method: str, path: str, expected: Role) -> None:
    assert needed_by_mlflow(method, path) is expected


def test_the_operators_own_key_is_the_homes_owners(context: Context, workspace: Workspace) -> None:
    assert operator_with("the key", context) == Caller(workspace.user, Role.OWNER)
    assert operator_with(context.identity.header, context) == Caller(workspace.user, Role.OWNER)


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


def test_a_step_s_token_opens_them_as_a_contributor_for_as_long_as_that_attempt_runs(
    context: Context, workspace: Workspace
) -> None:
    first, second = Attempt("job1", "outer.train", 1), Attempt("job1", "outer.train", 2)
    tokens = {attempt: context.identity.step_token(OPERATOR_AUDIENCE, attempt, "amina") for attempt in (first, second)}
    running = cast(Context, SimpleNamespace(**{**vars(context), "is_running": lambda attempt: attempt == second}))
    caller = operator_with(tokens[second], running)
    assert (caller.user, caller.role, caller.attempt) == ("amina", Role.CONTRIBUTOR, second)
    with pytest.raises(Unauthorized, match=r"step:job1/outer\.train/1, which doesn't run any more"):
        operator_with(tokens[first], running)


def test_a_step_s_token_opens_nothing_but_the_operator_s_routes(context: Context, workspace: Workspace) -> None:
    token = context.identity.step_token(OPERATOR_AUDIENCE, Attempt("job1", "train", 1), workspace.user)
    with pytest.raises(Unauthorized, match="The token is for mafunzo/mlflow"):
        context.identity.check_token(token, frozenset({"https://127.0.0.1:8443"}))
    claimed = context.identity.check_token(token, frozenset({OPERATOR_AUDIENCE}))
    with pytest.raises(Unauthorized, match="doesn't run any more"):
        admit(claimed, workspace.users)


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
