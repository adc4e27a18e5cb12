"""The ids of answers: each names what gave it, can't be guessed, and shows that this home made it.

    chatcmpl-k3f9q2m7xda5w2n6p4zt7cvh2jq6rb
             |---------||-----------||-----|
             reference   random      check

The reference is that of a `Serving`, which the store keeps. The check is a MAC of the rest under the home's secret, so that an
id with a letter wrong, or of another home, isn't taken for an answer of this one.
"""

import base64
import hashlib
import hmac
import re
import secrets

from mafunzo.entities.serving import REFERENCE_LENGTH

RANDOM_LENGTH, CHECK_LENGTH = 12, 8
"""Letters of five bits each."""
KINDS = {"/v1/chat/completions": "chatcmpl", "/v1/completions": "cmpl"}
"""How an answer's id begins in OpenAI's dialect, by the path that was asked."""
_ID = re.compile(
    rf"(?:(?:{'|'.join(KINDS.values())})-)?"
    rf"([a-z2-7]{{{REFERENCE_LENGTH}}})([a-z2-7]{{{RANDOM_LENGTH}}})([a-z2-7]{{{CHECK_LENGTH}}})"
)


def new_id(secret: bytes, kind: str, reference: str) -> str:
    """Return the id of a new answer: `kind` is how it begins, `reference` names what gives it."""
    random = _letters(secrets.token_bytes(8), RANDOM_LENGTH)
    return f"{kind}-{reference}{random}{_check(secret, reference, random)}"


def reference_of(secret: bytes, answer_id: str) -> str | None:
    """Return the reference in an id, or None where this home didn't make it."""
    parts = _ID.fullmatch(answer_id)
    if parts is None:
        return None
    reference, random, check = parts.groups()
    return reference if hmac.compare_digest(check, _check(secret, reference, random)) else None


def _check(secret: bytes, reference: str, random: str) -> str:
    digest = hmac.new(secret, f"mafunzo answer {reference}{random}".encode(), hashlib.sha256).digest()
    return _letters(digest, CHECK_LENGTH)


def _letters(content: bytes, length: int) -> str:
    return base64.b32encode(content).decode().lower()[:length]
