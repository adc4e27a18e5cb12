"""Authentication: the key in a request, the operator's key, and the names that the server answers to."""

import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mafunzo.control.workspace import Home
from mafunzo.errors import Unauthorized

OPERATOR_KEY_FILE = "operator.key"


def bearer(headers: Mapping[str, str]) -> str:
    """Return the key of a request; raises `Unauthorized` without one."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("The request has no key. Send 'Authorization: Bearer <key of the endpoint>'.")
    return key.strip()


def operator_key(home: Home) -> str:
    """Return the key that opens `/metrics`, made on first use and readable by the home's user only."""
    path: Path = home.root / OPERATOR_KEY_FILE
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    return path.read_text(encoding="ascii").strip()


class KnownNames:
    """Answers requests for the server's own names only, so that a page in a browser can't reach it by a name of the page's
    own that it lets resolve to this machine (DNS rebinding)."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self.app, self._names = app, tuple(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not is_among(_host(scope), self._names):
            message = f"This server answers for {', '.join(self._names)} only: the Host header names another."
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": "wrong_host"}
            await JSONResponse({"error": error}, status_code=421)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def is_among(host: str, names: Collection[str]) -> bool:
    """Return whether a Host header, with or without a port, is one of `names`; there, an address stands without brackets."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, "0"
    is_ipv6 = name.startswith("[") and name.endswith("]")
    bare = name[1:-1] if is_ipv6 else name
    return bare.lower() in names and is_ipv6 == (":" in bare) and port.isdecimal()


def _host(scope: Scope) -> str:
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    return hosts[0] if len(hosts) == 1 else ""
