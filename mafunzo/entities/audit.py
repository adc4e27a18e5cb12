"""What was asked over the network, by whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


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
