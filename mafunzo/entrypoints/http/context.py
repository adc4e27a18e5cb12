"""What every request of one server finds: the store, the way to the workers, the loops."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from prometheus_client import CollectorRegistry
from starlette.requests import Request

from mafunzo.control.workspace import AuditLog
from mafunzo.control.workspace.responses import Responses
from mafunzo.control.workspace.users import Users
from mafunzo.entities.backoff import delay_s
from mafunzo.entities.mirror import MirrorReport
from mafunzo.entrypoints.http.directory import Directory
from mafunzo.entrypoints.http.forwarding import Router
from mafunzo.entrypoints.http.identity import Attempt, Identity
from mafunzo.entrypoints.http.limits import Limits

logger = logging.getLogger(__name__)


class Loop:
    """A loop in a thread of its own. If it breaks it is written down and begun again, after a pause that grows."""

    def __init__(self, name: str, run: Callable[[threading.Event], None]) -> None:
        self.name = name
        self.error = ""
        self._run = run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_running, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask it to end after what it is doing now; return whether it did."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _keep_running(self) -> None:
        breaks = 0
        while not self._stop.is_set():
            try:
                self._run(self._stop)
            except Exception as error:
                self.error = f"{type(error).__name__}: {error}"
                breaks += 1
                pause_s = delay_s(breaks)
                logger.exception("The %s broke; it begins again in %g s", self.name, pause_s)
                self._stop.wait(pause_s)


@dataclass(frozen=True)
class Context:
    """One server's parts. operator_key: what opens the operator's routes; names: what clients may call the server.

    is_running: whether an attempt of a step runs, which has a token for as long as it does. mirror_report: of an endpoint.
    """

    directory: Directory
    metrics: CollectorRegistry
    operator_key: str
    identity: Identity
    users: Users
    audit: AuditLog
    names: Sequence[str]
    limits: Limits
    router: Router
    responses: Responses
    loops: Sequence[Loop] = ()
    is_running: Callable[[Attempt], bool] = lambda _: False
    mirror_report: Callable[[str], MirrorReport] = MirrorReport


def context_of(request: Request) -> Context:
    """Return the context of the server that a request came to."""
    return cast(Context, request.app.state.serving)
