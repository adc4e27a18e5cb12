"""Those who may ask over the network, how much each may do, and what was asked."""

from collections.abc import Mapping
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


@dataclass(frozen=True)
class AuditEntry:
    """A request that changed something, was for a secret, or was refused; never a body, key or token.

    user, role: empty where nobody has proven who they are, or an endpoint's key or a signed address did it. address: the
    client's. what: the name of the verb; ids: what it is about. duration_ms: until the answer's last byte.
    """

    time: datetime
    user: str
    role: str
    address: str
    method: str
    what: str
    ids: Mapping[str, str]
    status: int
    duration_ms: float
