"""Tests of `mafunzo.entrypoints.http.endpoint_key`: one key opens one endpoint, or all of a user's."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from mafunzo.control.workspace.users import TOKEN_PREFIX
from mafunzo.entities.endpoint import Endpoint
from mafunzo.entities.user import Role, User
from mafunzo.entrypoints.http.directory import Entry, Snapshot, digest
from mafunzo.entrypoints.http.endpoint_key import opened_endpoint, opened_endpoints, rate_caller
from mafunzo.errors import Forbidden, NotFound, Unauthorized

ROLES = {f"{TOKEN_PREFIX}{role}": role for role in Role}


def request(key: str, general_key: str = "of all") -> Request:
    entries = [Entry(Endpoint(name), (digest(f"of {name}"), digest("second")), []) for name in ("chat", "draw")]

    async def newest() -> Snapshot:
        return Snapshot(entries, lambda: general_key)

    def with_token(token: str) -> User:
        if token not in ROLES:
            raise Unauthorized("The token is nobody's.")
        return User("amina", ROLES[token], token_id="1")

    serving = SimpleNamespace(
        directory=SimpleNamespace(newest=newest),
        users=SimpleNamespace(with_token=with_token),
        operator_key="operator's",
    )
    app = SimpleNamespace(state=SimpleNamespace(serving=serving))
    return Request({"type": "http", "headers": [(b"authorization", f"Bearer {key}".encode())], "app": app})


def opened(key: str, general_key: str = "of all") -> list[str]:
    return [entry.endpoint.name for entry in asyncio.run(opened_endpoints(request(key, general_key)))]


@pytest.mark.parametrize(
    ("key", "names"),
    [
        pytest.param("of chat", ["chat"], id="an endpoint's own"),
        pytest.param("second", ["chat", "draw"], id="one that two have"),
        pytest.param("of all", ["chat", "draw"], id="the home's for all"),
        pytest.param(f"{TOKEN_PREFIX}contributor", ["chat", "draw"], id="a contributor's token"),
        pytest.param(f"{TOKEN_PREFIX}owner", ["chat", "draw"], id="an owner's token"),
    ],
)
def test_a_key_opens_its_endpoints(key: str, names: list[str]) -> None:
    assert opened(key) == names


@pytest.mark.parametrize(
    ("key", "caller"),
    [
        ("of chat", "primary"),
        ("second", "secondary"),
        ("of all", "general"),
        (f"{TOKEN_PREFIX}contributor", "user:amina"),
    ],
)
def test_a_caller_is_known_by_its_key(key: str, caller: str) -> None:
    asked = request(key)
    entry = asyncio.run(opened_endpoint(asked, "chat"))
    assert rate_caller(asked, entry) == caller


@pytest.mark.parametrize("key", ["wrong", f"{TOKEN_PREFIX}wrong", "operator's", ""])
def test_no_other_key_opens_anything(key: str) -> None:
    with pytest.raises(Unauthorized):
        opened(key)
    with pytest.raises(Unauthorized):
        opened(key, general_key="")


def test_a_reader_looks_and_asks_nothing() -> None:
    with pytest.raises(
        Forbidden, match="User amina, whose role is reader, may not invoke endpoints: it needs the role contrib"
    ):
        opened(f"{TOKEN_PREFIX}reader")


def test_one_endpoint_is_found_by_its_name() -> None:
    assert asyncio.run(opened_endpoint(request("of all"), "draw")).endpoint.name == "draw"
    with pytest.raises(NotFound, match="doesn't exist, or this key doesn't open it"):
        asyncio.run(opened_endpoint(request("of chat"), "draw"))


@pytest.mark.parametrize("role", Role)
def test_a_user_s_token_tells_the_audit_log_who_asks(role: Role) -> None:
    asked = request(f"{TOKEN_PREFIX}{role}")
    with suppress(Forbidden):
        asyncio.run(opened_endpoints(asked))
    assert (asked.state.caller.user, asked.state.caller.role) == ("amina", role)
