"""Shared access signatures (SAS): time-limited access to a container, or to one blob, by a signed query string.

They are Azure's own service SAS, whether this server signs or a client that has the account's key:
https://learn.microsoft.com/rest/api/storageservices/create-service-sas, from version 2020-12-06 on.
"""

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from mafunzo.entrypoints.azure.wire.blob import VERSION, BlobRefused
from mafunzo.entrypoints.http.identity import Caller, Identity
from mafunzo.errors import Unauthorized

ACCOUNT = "mafunzo"
FIRST_VERSION = "2020-12-06"
LIFETIME_S = 3600
READ, WRITE, CREATE, LIST, DELETE = "r", "w", "c", "l", "d"
NOT_ENFORCED = frozenset({
    "si", "sip", "ses", "rscc", "rscd", "rsce", "rscl", "rsct", "skoid", "sktid", "skt", "ske", "sks", "skv", "skdutid",
    "sduoid", "saoid", "suoid", "scid", "sdd", "srh", "srq", "ss", "srt", "snapshot", "versionid",
})  # fmt: skip
"""SAS fields with restrictions or grants that aren't enforced here: by address, policy, user, account and so on."""


def sas_of(identity: Identity, caller: Caller) -> "Sas":
    """Return a caller's signer: each has an account key of their own, which expires with their token."""
    own = f"blobs of {caller.user} with {caller.token_id}" if caller.token_id else "blobs"
    return Sas(identity.derive(own))


@dataclass(frozen=True)
class Sas:
    """Signs and checks; `key` is the account's."""

    key: bytes

    @property
    def account_key(self) -> str:
        """The key as Azure's clients take it."""
        return base64.b64encode(self.key).decode()

    def sign(self, container: str, permissions: str, now: float | None = None) -> str:
        """Return a query string that grants `permissions` (of `rcwdl`) on `container` for an hour."""
        end = datetime.fromtimestamp((time.time() if now is None else now) + LIFETIME_S, UTC)
        fields = {"sv": VERSION, "sr": "c", "sp": permissions, "se": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return urlencode({**fields, "sig": self.signature(string_to_sign(fields, f"{ACCOUNT}/{container}"))})

    def check(self, container: str, permission: str, query: Mapping[str, str], now: float | None = None) -> None:
        """Raise `Unauthorized` unless `query` grants `permission` on `container` now."""
        if permission not in self.permissions(query, container, now=now):
            raise Unauthorized(f"The signature allows '{query.get('sp', '')}', not '{permission}'.")

    def permissions(
        self,
        query: Mapping[str, str],
        container: str,
        blob: str = "",
        accounts: Iterable[str] = (ACCOUNT,),
        now: float | None = None,
    ) -> str:
        """Return the permissions that `query` grants on a container, or a blob in it, under any of the account's names.

        Raises `Unauthorized` where it isn't signed, isn't for that or isn't for now.
        """
        _check_fields(query)
        if query.get("sr") == "b" and not blob:
            raise BlobRefused("The signature is for a blob only.", reason="AuthorizationResourceTypeMismatch")
        path = f"{container}/{blob}" if query.get("sr") == "b" else container
        _check_time(query, time.time() if now is None else now)
        expected = [self.signature(string_to_sign(query, f"{account}/{path}")) for account in accounts]
        if not any(hmac.compare_digest(query.get("sig", "").encode(), one.encode()) for one in expected):
            raise Unauthorized(f"The address has no right signature for '{path}'.")
        return query.get("sp", "")

    def signature(self, text: str) -> str:
        """Return the signature of a text."""
        return base64.b64encode(hmac.new(self.key, text.encode(), hashlib.sha256).digest()).decode()


def string_to_sign(fields: Mapping[str, str], path: str) -> str:
    """Return the string to sign; `path` is account, container and blob. The empty lines are fields that must not be there."""
    sp, st, se, spr, sv, sr = (fields.get(name, "") for name in ("sp", "st", "se", "spr", "sv", "sr"))
    return "\n".join((sp, st, se, f"/blob/{path}", "", "", spr, sv, sr, *[""] * 7))


def _check_fields(query: Mapping[str, str]) -> None:
    """Raise `Unauthorized` for a signature of another kind."""
    odd = sorted(NOT_ENFORCED & set(query))
    if odd:
        raise Unauthorized(
            f"The address has the field {', '.join(odd)}, which can't be enforced here. Sign without it."
        )
    if query.get("sr") not in ("b", "c") or query.get("spr", "https") not in ("https", "https,http"):
        raise Unauthorized("The address isn't signed for a container (sr=c) or a blob (sr=b), over https.")
    version = query.get("sv", "")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", version) or version < FIRST_VERSION:
        raise Unauthorized(f"The signature's version is '{version}', expected {FIRST_VERSION} or later.")


def _check_time(query: Mapping[str, str], now: float) -> None:
    begin, end = _moment(query.get("st") or "1970-01-01"), _moment(query.get("se", ""))
    if not begin <= now < end:
        raise Unauthorized(f"The signature holds from {query.get('st', 'ever')} to {query['se']}. Ask for another one.")


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()
    except (ValueError, OverflowError) as error:
        raise Unauthorized(f"The signature holds until '{text}', which is no moment.") from error
