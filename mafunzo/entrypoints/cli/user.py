"""`mafunzo user`: who may ask over the network, with which role, and what they asked."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer

import mafunzo
from mafunzo.entities.user import Role, User
from mafunzo.entrypoints.terminal.output import (
    ALL,
    AS_JSON,
    LIMIT,
    one_page,
    print_entity,
    print_list,
    print_more,
    print_result,
)
from mafunzo.errors import InvalidFile, InvalidParameter

AGE = re.compile(r"([0-9]{1,6})([mhd])")
UNITS = {"m": "minutes", "h": "hours", "d": "days"}

app = typer.Typer(help="Users of a server that a team shares (mafunzo up --listen).", no_args_is_help=True)
NAME = typer.Argument(help="The user's name.")
TOKEN_FILE = typer.Option(
    None, help="Write the token into this new file, which only you can read, and don't print it.", metavar="FILE"
)


@app.command()
def create(
    name: str = NAME,
    role: Role = typer.Option(
        ..., help="reader: look at everything; contributor: make and change things too; owner: all of it."
    ),
    token_file: Path = TOKEN_FILE,
    as_json: bool = AS_JSON,
) -> None:
    """Add a user and show their token, this once: only its hash is kept."""
    _require_new(token_file)
    user, token = mafunzo.Workspace().users.create(name, role)
    _show_token(user, token, token_file, as_json)


@app.command("list")
def list_users(
    limit: int = LIMIT,
    after: str = typer.Option(None, help="The name of a user: list those after them."),
    everything: bool = ALL,
    as_json: bool = AS_JSON,
) -> None:
    """List the users."""
    verbs = mafunzo.Workspace().users
    users, has_more = one_page(lambda most: verbs.list(most, after), limit, everything)
    rows = [(u.name, u.role, "revoked" if u.is_revoked else "active", u.token_id, u.created_at) for u in users]
    columns = ("name", "role", "state", "token", "created")
    print_list(users, as_json, columns, rows, "No users. Make one: mafunzo user create")
    print_more(has_more, "mafunzo user list", f"--after {users[-1].name}" if users else "", limit, as_json)


@app.command()
def show(name: str = NAME, as_json: bool = AS_JSON) -> None:
    """Show a user; never their token."""
    user = mafunzo.Workspace().users.get(name)
    facts = {"name": user.name, "role": user.role, "state": "revoked" if user.is_revoked else "active"}
    token = f"{user.token_id}, since {user.token_at:%Y-%m-%d %H:%M} UTC"
    print_entity(user, as_json, {**facts, "token": token, "created": user.created_at, "by": user.created_by})


@app.command()
def rotate(name: str = NAME, token_file: Path = TOKEN_FILE, as_json: bool = AS_JSON) -> None:
    """Give a user a new token and show it, this once. The old one is refused from now on."""
    _require_new(token_file)
    user, token = mafunzo.Workspace().users.rotate(name)
    _show_token(user, token, token_file, as_json)


@app.command()
def revoke(name: str = NAME, as_json: bool = AS_JSON) -> None:
    """Refuse a user from now on. `mafunzo user rotate` lets them in again."""
    user = mafunzo.Workspace().users.revoke(name)
    print_result(user, as_json, f"Revoked {name}; their token is refused from now on")


@app.command()
def delete(name: str = NAME, as_json: bool = AS_JSON) -> None:
    """Delete a user. What they made stays, under their name."""
    mafunzo.Workspace().users.delete(name)
    print_result({"deleted": name}, as_json, f"Deleted {name}")


@app.command()
def log(
    user: str | None = typer.Option(None, help="Only what this user asked."),
    since: str | None = typer.Option(
        None, help="Only what was asked since: 2026-05-06, 2026-05-06T12:30, 90m, 2h or 3d."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Show who asked for what: each change, each secret that was read, each request that was refused."""
    entries = mafunzo.Workspace().users.log(user, None if since is None else _moment(since))
    rows = [
        (
            e.time,
            e.user or "-",
            e.role or "-",
            e.address,
            e.method,
            " ".join([e.what, *e.ids.values()]),
            e.status,
            f"{e.duration_ms:.0f} ms",
        )
        for e in entries
    ]
    columns = ("time", "user", "role", "from", "method", "what", "status", "took")
    print_list(entries, as_json, columns, rows, "Nothing was asked over the network.")


def _moment(text: str) -> datetime:
    """Return the moment that a date, a time (this machine's, unless it names its offset) or an age names."""
    age = AGE.fullmatch(text)
    if age:
        return datetime.now(UTC) - timedelta(**{UNITS[age[2]]: int(age[1])})
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise InvalidParameter(
            f"--since is '{text}', expected a date or time (2026-05-06, 2026-05-06T12:30) or an age (90m, 2h, 3d)."
        ) from error


def _require_new(file: Path | None) -> None:
    """Refuse a file that is there already before a token is made for it."""
    if file is not None and file.exists():
        raise InvalidFile(f"{file} exists already. Name a new file for the token.")


def _show_token(user: User, token: str, file: Path | None, as_json: bool) -> None:
    if file is None:
        line = f"The token of {user.name} ({user.role}), shown this once:\n{token}"
        print_result({"user": user, "token": token}, as_json, line)
    else:
        _write_secret(file, token)
        line = f"Wrote the token of {user.name} ({user.role}) to {file}"
        print_result({"user": user, "token_file": file}, as_json, line)


def _write_secret(file: Path, token: str) -> None:
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:
            opened.write(token + "\n")
    except OSError as error:
        raise InvalidFile(
            f"{file} can't be written: {error.strerror}. The token is lost; make another one: mafunzo user rotate"
        ) from error
