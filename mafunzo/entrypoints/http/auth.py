"""Authentication: the key in a request, the key of all endpoints, and the operator's key."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from mafunzo.control.workspace import Home
from mafunzo.errors import Unauthorized
from mafunzo.tracking.atomic_json import write_text

OPERATOR_KEY_FILE = "operator.key"
ENDPOINTS_KEY_FILE = "endpoints.key"


def bearer(headers: Mapping[str, str]) -> str:
    """Return the key of a request; raises `Unauthorized` without one."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("The request has no key. Send 'Authorization: Bearer <key of the endpoint>'.")
    return key.strip()


def operator_key(home: Home) -> str:
    """Return the key that opens `/metrics`, made on first use and readable by the home's user only."""
    return _key_in(home.root / OPERATOR_KEY_FILE)


def endpoints_key(home: Home) -> str:
    """Return the key that opens all endpoints of the home, and nothing else; made on first use, the home's user's only."""
    return _key_in(home.root / ENDPOINTS_KEY_FILE)


def renew_endpoints_key(home: Home) -> str:
    """Replace the key that opens all endpoints, at once; return the new one."""
    write_text(home.root / ENDPOINTS_KEY_FILE, secrets.token_urlsafe(32), mode=0o600)
    return endpoints_key(home)


def _key_in(path: Path) -> str:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    return path.read_text(encoding="ascii").strip()
