"""The caller's identity: tokens that the identity endpoint issues to whoever knows the home's secret, or a user's own.

A token is a JWT (RFC 7519) signed with HS256 under a key that is derived from the home's secret. The Azure SDK reads its
`aud`, `tid` and `exp`; the server checks the signature and all three. It says who asks and in which role; whether that still
holds is looked up on each request (`access.py`).
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

from mafunzo.control.workspace import Home
from mafunzo.entities.user import Role
from mafunzo.errors import Unauthorized

TENANT = "00000000-0000-0000-0000-000000000001"
LIFETIME_S = 3600
LEEWAY_S = 60
OPERATOR_AUDIENCE = "mafunzo/mlflow"
"""What a token is for that opens the operator's routes."""
OPERATOR_LIFETIME_S = 24 * 3600
"""It stands in the address that a client keeps for as long as its program runs; a revoked user's is refused at once."""

STEP_LIFETIME_S = 400 * 24 * 3600
"""No step runs for longer; what ends its token is the step's end, which is looked up on each request."""
STEP_PREFIX = "step:"


@dataclass(frozen=True)
class Attempt:
    """One attempt of a step that runs, which a token can be for."""

    job: str
    step: str
    number: int

    @property
    def token_id(self) -> str:
        """What a token of it is known by."""
        return f"{STEP_PREFIX}{self.job}/{self.step}/{self.number}"


@dataclass(frozen=True)
class Caller:
    """A caller and their role. token_id: which of a user's tokens they have, or which step's; the home's own user has none."""

    user: str
    role: Role
    token_id: str = ""

    @property
    def attempt(self) -> Attempt | None:
        """The attempt of a step that asks, None where somebody else does."""
        if not self.token_id.startswith(STEP_PREFIX):
            return None
        job, step, number = self.token_id.removeprefix(STEP_PREFIX).split("/")
        return Attempt(job, step, int(number))


def step_caller(attempt: Attempt, user: str) -> Caller:
    """Return the caller that an attempt of a step is, which `user` has submitted."""
    return Caller(user, Role.CONTRIBUTOR, attempt.token_id)


@dataclass(frozen=True)
class Identity:
    """Signs and verifies callers' tokens; every key is derived from the home's secret for one use.

    user: the user of the home itself, who is an owner.
    """

    secret: bytes
    user: str

    @property
    def header(self) -> str:
        """What a client sends as `X-IDENTITY-HEADER`."""
        return self.derive("identity header").hex()

    @property
    def owner(self) -> Caller:
        """The user of the home."""
        return Caller(self.user, Role.OWNER)

    def token(
        self, audience: str, caller: Caller, now: float | None = None, lifetime_s: int = LIFETIME_S
    ) -> tuple[str, int]:
        """Return a token for `audience`, and when it ends, in seconds since the epoch."""
        begin = int(time.time() if now is None else now)
        end = begin + lifetime_s
        claims = {
            "aud": audience,
            "iss": "mafunzo",
            "tid": TENANT,
            "oid": caller.user,
            "roles": [caller.role],
            "token_id": caller.token_id,
            "iat": begin,
            "nbf": begin,
            "exp": end,
        }
        signed = f"{_segment({'alg': 'HS256', 'typ': 'JWT'})}.{_segment(claims)}"
        return f"{signed}.{_encode(self._sign('token', signed.encode()))}", end

    def step_token(self, audience: str, attempt: Attempt, user: str) -> str:
        """Return the token of a step that `user` has submitted: a contributor's, for as long as the attempt runs."""
        return self.token(audience, step_caller(attempt, user), lifetime_s=STEP_LIFETIME_S)[0]

    def check_token(self, token: str, audiences: frozenset[str], now: float | None = None) -> Caller:
        """Return the caller that the token was issued to, as they were then.

        Raises `Unauthorized` for a wrong signature, audience or time.
        """
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
        # Not `nbf`: none is given for later, so that one in the future only says that the clock was put back meanwhile.
        if moment >= claims["exp"] + LEEWAY_S:
            raise Unauthorized("The token has ended. Ask the identity endpoint for another one.")
        return Caller(claims["oid"], Role(claims["roles"][0]), claims["token_id"])

    def is_header(self, header: str) -> bool:
        """Return whether `header` is the home's identity header."""
        return hmac.compare_digest(header.encode(), self.header.encode())

    def _sign(self, use: str, body: bytes) -> bytes:
        return hmac.new(self.derive(use), body, hashlib.sha256).digest()

    def derive(self, use: str) -> bytes:
        """Return the key for one use, from which no other key can be derived."""
        return hmac.new(self.secret, f"mafunzo {use}".encode(), hashlib.sha256).digest()


def identity_of(home: Home, user: str) -> Identity:
    """Return the identity of a home."""
    return Identity(home.secret(), user)


def _claims(segment: str) -> Mapping[str, Any]:
    try:
        claims = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, binascii.Error) as error:
        raise Unauthorized("The token can't be read.") from error
    return claims if isinstance(claims, dict) else {}


def _segment(body: Mapping[str, Any]) -> str:
    return _encode(json.dumps(body, separators=(",", ":")).encode())


def _encode(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()
