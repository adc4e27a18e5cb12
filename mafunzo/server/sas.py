"""Signatures that open a container of blobs for a while: what a client has in its addresses instead of a key.

They have the fields of Azure's service SAS (`sv sr sp se sig`), so that Azure's storage client takes them as they are. What is
signed is the container, the permissions and the end; HMAC-SHA256 under a key derived from the home's secret.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from mafunzo.errors import Unauthorized

VERSION = "2023-11-03"
LIFETIME_S = 3600
READ, WRITE, LIST, DELETE = "r", "w", "l", "d"


@dataclass(frozen=True)
class Sas:
    """Signs and checks; `key` is the secret."""

    key: bytes

    def sign(self, container: str, permissions: str, now: float | None = None) -> str:
        """Return a query string that opens `container` for `permissions` (of `rcwdl`) for an hour."""
        end = datetime.fromtimestamp((time.time() if now is None else now) + LIFETIME_S, UTC).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )
        fields = {"sv": VERSION, "sr": "c", "sp": permissions, "se": end}
        return urlencode({**fields, "sig": self._signature(container, permissions, end)})

    def check(self, container: str, permission: str, query: Mapping[str, str], now: float | None = None) -> None:
        """Raise `Unauthorized` unless `query` has a signature that opens `container` for `permission` now."""
        permissions, end, given = query.get("sp", ""), query.get("se", ""), query.get("sig", "")
        expected = self._signature(container, permissions, end)
        if not given or not hmac.compare_digest(given.encode(), expected.encode()):
            raise Unauthorized(f"The address has no right signature for the container '{container}'.")
        if permission not in permissions:
            raise Unauthorized(f"The signature allows '{permissions}', not '{permission}'.")
        if datetime.fromisoformat(end).timestamp() < (time.time() if now is None else now):
            raise Unauthorized(f"The signature ended at {end}. Ask the datastore for another one.")

    def _signature(self, container: str, permissions: str, end: str) -> str:
        signed = "\n".join((VERSION, container, permissions, end)).encode()
        return base64.b64encode(hmac.new(self.key, signed, hashlib.sha256).digest()).decode()
