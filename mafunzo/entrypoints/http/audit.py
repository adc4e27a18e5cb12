"""The audit log's middleware: it logs every request that changes something or reads a secret, and every refused one."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mafunzo.control.workspace import AuditLog
from mafunzo.entities.user import AuditEntry

REFUSED = frozenset({401, 403})
UNANSWERED = 500
"""The status of a request whose client went away, or whose answer broke, before it began."""
LONGEST_ID = 256
SAME_EVERYWHERE = frozenset({"subscription", "group", "workspace", "registry"})
"""Parts of a path that say nothing here, where there is one workspace and one registry."""


class Audit:
    """An ASGI middleware. It stands where the router fills in the scope that it has passed on.

    is_audited: whether a request with that status is logged.
    """

    def __init__(self, app: ASGIApp, log: AuditLog, is_audited: Callable[[Scope, int], bool]) -> None:
        self.app, self._log, self._is_audited = app, log, is_audited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), UNANSWERED

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope.setdefault("state", {})
        try:
            await self.app(scope, receive, watch)
        finally:
            if self._is_audited(scope, status):
                self._log.append(_entry(scope, status, time.monotonic() - began))


def route_name(scope: Scope) -> str:
    """Return the name of the route that a request was matched with; empty where it matched none."""
    return str(getattr(scope.get("route"), "name", ""))


def _entry(scope: Scope, status: int, duration_s: float) -> AuditEntry:
    caller, client = scope["state"].get("caller"), scope.get("client")
    ids = {name: str(value)[:LONGEST_ID] for name, value in scope.get("path_params", {}).items()}
    return AuditEntry(
        time=datetime.now(UTC),
        user=caller.user if caller else "",
        role=caller.role if caller else "",
        address=client[0] if client else "",
        method=scope["method"],
        what=route_name(scope),
        ids={name: value for name, value in ids.items() if name not in SAME_EVERYWHERE},
        status=status,
        duration_ms=round(duration_s * 1000, 1),
    )
