"""Who asks over Azure's wire: tokens that the identity endpoint gives to whoever knows the home's secret.

A token is a JWT (RFC 7519) signed with HS256 under a key that is derived from the home's secret. The Azure SDK reads its
`aud`, `tid` and `exp`; the server checks the signature and all three.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mafunzo.errors import Unauthorized
from mafunzo.server.sas import Sas
from mafunzo.store.home import Home

TENANT = "00000000-0000-0000-0000-000000000001"
LIFETIME_S = 3600
LEEWAY_S = 60


@dataclass(frozen=True)
class Identity:
    """Signs and checks what proves who asks; every key is derived from the home's secret for one use."""

    secret: bytes
    user: str

    @property
    def header(self) -> str:
        """What a client sends as `X-IDENTITY-HEADER`."""
        return self._derive("identity header").hex()

    def token(self, audience: str, now: float | None = None) -> tuple[str, int]:
        """Return a token for `audience`, and when it ends, in seconds since the epoch."""
        begin = int(time.time() if now is None else now)
        end = begin + LIFETIME_S
        claims = {
            "aud": audience,
            "iss": "mafunzo",
            "tid": TENANT,
            "oid": self.user,
            "iat": begin,
            "nbf": begin,
            "exp": end,
        }
        signed = f"{_segment({'alg': 'HS256', 'typ': 'JWT'})}.{_segment(claims)}"
        return f"{signed}.{_encode(self._sign('token', signed.encode()))}", end

    def check_token(self, token: str, audiences: frozenset[str], now: float | None = None) -> str:
        """Return who the token was given to; raises `Unauthorized` for a wrong signature, audience or time."""
        signed, _, signature = token.rpartition(".")
        header, _, body = signed.partition(".")
        if not hmac.compare_digest(_encode(self._sign("token", signed.encode())).encode(), signature.encode()):
            raise Unauthorized(
                "The token wasn't given by this server. Start again with `mafunzo run` or `mafunzo env`."
            )
        claims = _claims(body)
        if _claims(header).get("alg") != "HS256" or str(claims.get("aud", "")).rstrip("/") not in audiences:
            raise Unauthorized(f"The token is for {claims.get('aud')}, not for this server.")
        moment = time.time() if now is None else now
        if not claims["nbf"] - LEEWAY_S <= moment < claims["exp"] + LEEWAY_S:
            raise Unauthorized("The token has ended. Ask the identity endpoint for another one.")
        return str(claims["oid"])

    def check_header(self, given: str) -> None:
        """Raise `Unauthorized` unless `given` is the home's identity header."""
        if not hmac.compare_digest(given.encode(), self.header.encode()):
            raise Unauthorized("X-IDENTITY-HEADER isn't this home's secret. Take the environment from `mafunzo env`.")

    def sas(self) -> Sas:
        """Return what signs the addresses of blobs."""
        return Sas(self._derive("blobs"))

    def _sign(self, use: str, body: bytes) -> bytes:
        return hmac.new(self._derive(use), body, hashlib.sha256).digest()

    def _derive(self, use: str) -> bytes:
        return hmac.new(self.secret, f"mafunzo {use}".encode(), hashlib.sha256).digest()


def identity_of(home: Home, user: str) -> Identity:
    """Return the identity of a home."""
    return Identity(home.secret(), user)


def _claims(segment: str) -> Mapping[str, Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, binascii.Error) as error:
        raise Unauthorized("The token can't be read.") from error
    return found if isinstance(found, dict) else {}


def _segment(body: Mapping[str, Any]) -> str:
    return _encode(json.dumps(body, separators=(",", ":")).encode())


def _encode(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()
