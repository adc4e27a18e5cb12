"""Those who may ask over the network, and how much each may do."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """How much a user may do; each may do what those before it may."""

    READER = "reader"
    CONTRIBUTOR = "contributor"
    OWNER = "owner"

    def includes(self, needed: "Role") -> bool:
        """Return whether this role may do what `needed` may."""
        roles = list(Role)
        return roles.index(self) >= roles.index(needed)


@dataclass(frozen=True)
class User:
    """Someone with a token of their own. The store has the token's hash only.

    token_id: the first characters of that hash, which tell a token from the one before it. token_at: when it was made.
    """

    name: str
    role: Role
    token_id: str
    is_revoked: bool = False
    created_by: str = ""
    created_at: datetime | None = None
    token_at: datetime | None = None
