"""Tests of `mafunzo user`: tokens are shown once, or go into a file that only their owner reads."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.store.audit import AuditLog
from mafunzo.entities.user import AuditEntry
from tests.support.command_line import Shell


def test_a_token_is_shown_once_and_is_the_users(shell: Shell, workspace: Workspace) -> None:
    first, token = shell("user", "create", "amina", "--role", "contributor").splitlines()
    assert first == "The token of amina (contributor), shown this once:"
    assert workspace.users.with_token(token).name == "amina"
    assert token not in shell("user", "show", "amina") + shell("user", "show", "amina", "--json")


def test_a_token_goes_into_a_file_that_only_its_owner_reads(shell: Shell, workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "token"
    told = shell("user", "create", "amina", "--role", "reader", "--token-file", file)
    assert told == f"Wrote the token of amina (reader) to {file}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert workspace.users.with_token(file.read_text().strip()).name == "amina"


def test_json_has_the_token_or_its_file_not_both(shell: Shell, tmp_path: Path) -> None:
    shown = json.loads(shell("user", "create", "amina", "--role", "owner", "--json"))
    assert (shown["user"]["name"], shown["user"]["role"], shown["token"][:8]) == ("amina", "owner", "mafunzo-")
    filed = json.loads(shell("user", "rotate", "amina", "--token-file", tmp_path / "token", "--json"))
    assert filed["token_file"] == str(tmp_path / "token")
    assert "token" not in filed


def test_a_file_that_is_there_is_refused_before_a_token_is_made(
    shell: Shell, workspace: Workspace, tmp_path: Path
) -> None:
    (file := tmp_path / "token").write_text("mine")
    refusal = f"error: {file} exists already. Name a new file for the token.\n"
    assert shell("user", "create", "amina", "--role", "reader", "--token-file", file, code=2) == refusal
    assert workspace.users.list() == []
    user, _ = workspace.users.create("amina", "reader")
    assert shell("user", "rotate", "amina", "--token-file", file, code=2) == refusal
    assert workspace.users.get("amina").token_id == user.token_id
    assert file.read_text() == "mine"


def test_a_token_that_cannot_be_written_says_how_to_make_another(shell: Shell, tmp_path: Path) -> None:
    told = shell("user", "create", "amina", "--role", "reader", "--token-file", tmp_path / "none" / "token", code=2)
    assert (
        "can't be written: No such file or directory. The token is lost; make another one: mafunzo user rotate" in told
    )


def test_users_are_listed_with_role_and_state(shell: Shell, workspace: Workspace) -> None:
    workspace.users.create("baraka", "owner")
    user, _ = workspace.users.create("amina", "reader")
    workspace.users.revoke("amina")
    header, *rows = [line.split() for line in shell("user", "list").splitlines()]
    assert header == ["name", "role", "state", "token", "created"]
    assert [row[:3] for row in rows] == [["amina", "reader", "revoked"], ["baraka", "owner", "active"]]
    assert rows[0][3] == user.token_id
    assert [one["is_revoked"] for one in json.loads(shell("user", "list", "--json"))] == [True, False]


def test_without_users_the_list_says_how_to_make_one(shell: Shell) -> None:
    assert shell("user", "list") == "No users. Make one: mafunzo user create\n"
    assert json.loads(shell("user", "list", "--json")) == []


def test_a_user_is_shown_with_who_made_them(shell: Shell, workspace: Workspace) -> None:
    user, _ = workspace.users.create("amina", "reader")
    told = shell("user", "show", "amina")
    assert f"token    {user.token_id}, since {user.token_at:%Y-%m-%d %H:%M} UTC" in told
    assert f"by       {workspace.user}" in told
    assert "state    active" in told


def test_a_new_token_ends_the_old_one(shell: Shell, workspace: Workspace) -> None:
    _, old = workspace.users.create("amina", "reader")
    new = shell("user", "rotate", "amina").splitlines()[1]
    assert workspace.users.with_token(new).name == "amina"
    assert old != new
    assert workspace.users.get("amina").token_id == workspace.users.with_token(new).token_id


def test_a_user_is_revoked_and_deleted(shell: Shell, workspace: Workspace) -> None:
    workspace.users.create("amina", "reader")
    assert shell("user", "revoke", "amina") == "Revoked amina; their token is refused from now on\n"
    assert workspace.users.get("amina").is_revoked
    assert json.loads(shell("user", "revoke", "amina", "--json"))["is_revoked"] is True
    assert shell("user", "delete", "amina") == "Deleted amina\n"
    assert workspace.users.list() == []


def test_what_is_deleted_is_named_in_json(shell: Shell, workspace: Workspace) -> None:
    workspace.users.create("amina", "reader")
    assert json.loads(shell("user", "delete", "amina", "--json")) == {"deleted": "amina"}


@pytest.mark.parametrize("verb", ["show", "rotate", "revoke", "delete"])
def test_an_unknown_user_is_refused_with_near_names(verb: str, shell: Shell, workspace: Workspace) -> None:
    workspace.users.create("amina", "reader")
    assert shell("user", verb, "amena", code=2) == "error: No user 'amena'. Did you mean amina?\n"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        pytest.param(
            ["create", "a b", "--role", "reader"], 2, "the name is 'a b', expected 1 to 64 letters", id="bad name"
        ),
        pytest.param(
            ["create", "a", "--role", "boss"], 2, "'boss' is not one of 'reader', 'contributor', 'owner'", id="role"
        ),
        pytest.param(["create", "a"], 2, "Missing option '--role'", id="no role"),
        pytest.param(["log", "--since", "soon"], 2, "--since is 'soon', expected a date or time", id="no moment"),
    ],
)
def test_a_refusal_says_what_is_expected(words: list[str], code: int, text: str, shell: Shell) -> None:
    assert text in " ".join(shell("user", *words, code=code).replace("│", "").split())


def test_the_homes_own_user_is_an_owner_already(shell: Shell, workspace: Workspace) -> None:
    told = shell("user", "create", workspace.home_user, "--role", "owner", code=3)
    assert told.startswith(f"error: {workspace.home_user} is the user of this home, and its owner already.")


def entry(user: str, age: timedelta, status: int = 200) -> AuditEntry:
    moment = datetime.now(UTC) - age
    return AuditEntry(moment, user, "reader" if user else "", "10.0.0.1", "PUT", "put_job", {"job": "j1"}, status, 12.4)


@pytest.fixture
def log(workspace: Workspace) -> None:
    entries = AuditLog(workspace.home)
    for one in (
        entry("amina", timedelta(days=2)),
        entry("", timedelta(hours=3), 401),
        entry("amina", timedelta(minutes=5)),
    ):
        entries.append(one)


@pytest.mark.usefixtures("log")
def test_the_log_says_who_asked_for_what(shell: Shell) -> None:
    header, *rows = shell("user", "log").splitlines()
    assert header.split() == ["time", "user", "role", "from", "method", "what", "status", "took"]
    assert [row.split()[2:] for row in rows] == [
        ["amina", "reader", "10.0.0.1", "PUT", "put_job", "j1", "200", "12", "ms"],
        ["-", "-", "10.0.0.1", "PUT", "put_job", "j1", "401", "12", "ms"],
        ["amina", "reader", "10.0.0.1", "PUT", "put_job", "j1", "200", "12", "ms"],
    ]


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("options", "statuses"),
    [
        pytest.param([], [200, 401, 200], id="all"),
        pytest.param(["--user", "amina"], [200, 200], id="of one user"),
        pytest.param(["--since", "90m"], [200], id="by minutes"),
        pytest.param(["--since", "4h"], [401, 200], id="by hours"),
        pytest.param(["--since", "3d"], [200, 401, 200], id="by days"),
        pytest.param(["--since", "2001-01-01"], [200, 401, 200], id="by date"),
        pytest.param(["--since", "2999-01-01T12:30"], [], id="by time"),
    ],
)
def test_the_log_is_narrowed(options: list[str], statuses: list[int], shell: Shell) -> None:
    assert [one["status"] for one in json.loads(shell("user", "log", *options, "--json"))] == statuses


def test_an_empty_log_says_so(shell: Shell) -> None:
    assert shell("user", "log") == "Nothing was asked over the network.\n"
