"""Users: who has access over the network, their roles, and their logged requests."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import replace
from datetime import UTC, datetime

from mafunzo.control.store.audit import AuditLog
from mafunzo.control.workspace.services import Services
from mafunzo.entities.user import AuditEntry, Role, User
from mafunzo.errors import Conflict, Faults, NotFound, Unauthorized

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
TOKEN_PREFIX = "mafunzo-"
"""So that a search for lost secrets finds a token."""
TOKEN_ID_LENGTH = 12
UserList = list[User]  # the class below has a verb called list
Entries = list[AuditEntry]


class Users:
    """The verbs on users. The user of the home itself is none of them: the home's secret makes them an owner."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def create(self, name: str, role: str) -> tuple[User, str]:
        """Add a user; return them and their token, which is shown this once: the store keeps its hash.

        Raises `InvalidParameter` with all faults, and `Conflict` for a name that is taken.
        """
        faults = Faults()
        if not NAME.fullmatch(name):
            faults.add(f"the name is '{name}', expected 1 to 64 letters, digits and . _ @ -, no sign first.")
        if role not in list(Role):
            faults.add(f"the role is '{role}', expected {', '.join(Role)}.")
        faults.require_none(f"User '{name}' can't be made.")
        if name == self._services.home_user:
            raise Conflict(f"{name} is the user of this home, and its owner already. Choose another name.")
        token, maker = _new_token(), self._services.user
        user = User(name, Role(role), token_id=_id_of(token), created_by=maker, token_at=datetime.now(UTC))
        return self._services.records.users.add(user, _hash(token)), token

    def list(self, limit: int | None = None, after: str | None = None) -> UserList:
        """Return the users by name: all, or `limit` of those whose names come after a name."""
        return self._services.records.users.page(limit, after)

    def get(self, name: str) -> User:
        """Return a user; raises `NotFound` with near names."""
        return self._services.records.users.get(name)

    def rotate(self, name: str) -> tuple[User, str]:
        """Give a user a new token, also one who was revoked; the old one is refused at once. Raises `NotFound`."""
        token = _new_token()
        user = replace(self.get(name), token_id=_id_of(token), is_revoked=False, token_at=datetime.now(UTC))
        self._services.records.users.update(user, _hash(token))
        return user, token

    def revoke(self, name: str) -> User:
        """Refuse a user from now on; `rotate` lets them in again. Raises `NotFound`."""
        user = replace(self.get(name), is_revoked=True)
        self._services.records.users.update(user)
        return user

    def delete(self, name: str) -> None:
        """Delete a user. What they made stays, under their name. Raises `NotFound`."""
        self._services.records.users.delete(name)

    def log(self, user: str | None = None, since: datetime | None = None) -> Entries:
        """Return the requests over the network, oldest first: by one user, or since a moment."""
        return [
            entry
            for entry in AuditLog(self._services.home).read()
            if user in (None, entry.user) and (since is None or entry.time >= since)
        ]

    def with_token(self, token: str) -> User:
        """Return whose token this is; raises `Unauthorized` for nobody's, and for a revoked user's."""
        user = self._services.records.users.find(_hash(token))
        if user is None:
            raise Unauthorized(
                "The token is nobody's, or was replaced by a newer one. 'mafunzo user rotate' makes one."
            )
        return _not_revoked(user)

    def with_token_id(self, name: str, token_id: str) -> User:
        """Return the user called `name` as they are now.

        Raises `Unauthorized` when they are gone or revoked, or their token is another one than `token_id` says.
        """
        try:
            user = self.get(name)
        except NotFound as error:
            raise Unauthorized(f"User {name} was deleted.") from error
        if user.token_id != token_id:
            raise Unauthorized(f"The token of {name} was replaced by a newer one.")
        return _not_revoked(user)


def _not_revoked(user: User) -> User:
    if user.is_revoked:
        raise Unauthorized(
            f"User {user.name} was revoked. A new token lets them in again: mafunzo user rotate {user.name}"
        )
    return user


def _new_token() -> str:
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def _hash(token: str) -> str:
    """Return what is stored of a token. Its 256 random bits can't be guessed, so that no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def _id_of(token: str) -> str:
    return _hash(token)[:TOKEN_ID_LENGTH]
