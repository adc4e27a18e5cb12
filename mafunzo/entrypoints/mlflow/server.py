"""The process that serves MLflow's API and pages on loopback, and shows jobs in them.

`python -m mafunzo.entrypoints.mlflow --home FOLDER --port-file FILE` is a process of its own with its own database, one
worker, and neither job execution nor telemetry. It may die at any time. Its database is data, because users' own runs have no
other home.
"""

import argparse
import asyncio
import hmac
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from mafunzo.entrypoints.mlflow.operation import is_plain
from mafunzo.tracking.atomic_json import write_text

if TYPE_CHECKING:
    from mafunzo.entrypoints.mlflow.view import View

logger = logging.getLogger(__name__)

ARTIFACT_ROOT = "mlflow-artifacts:/"
_OFF = re.compile(r"/(ajax-api/3\.0/(mlflow/assistant|jobs)|gateway|ajax-api/2\.0/mlflow/gateway-proxy)(/|$)")
"""What of MLflow runs programs here or asks other servers: its assistant (which has a shell), its jobs and its gateway."""
_ARTIFACT_OF_A_RUN = re.compile(
    r"/(ajax-)?api/2\.0/mlflow-artifacts/(artifacts|mpu/\w+)/[^/]+/(?P<run>[^/]+)/artifacts(/|$)"
)


def serve(home: Path, port_file: Path | None, every_s: float, parent: int | None, token: str | None = None) -> None:
    """Ingest jobs and serve until the process ends, or until the process `parent` is gone.

    token: requests without this bearer token get 401.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    folder = home / "mlflow"
    (folder / "artifacts").mkdir(parents=True, exist_ok=True, mode=0o700)
    database = f"sqlite:///{folder / 'mlflow.db'}"
    _configure(database, folder / "artifacts")

    import uvicorn
    from mlflow.server import handlers
    from mlflow.server.fastapi_app import app

    from mafunzo.entrypoints.mlflow.store import RunStore, UserStore
    from mafunzo.entrypoints.mlflow.view import View

    view = View(home / "jobs", folder / "artifacts", RunStore(database, ARTIFACT_ROOT))
    store = handlers._tracking_store = UserStore(database, ARTIFACT_ROOT, view)
    gate = Gate(app, token, store.require_open)
    server = uvicorn.Server(uvicorn.Config(gate, log_level="warning", access_log=False))
    stop = threading.Event()
    ingestion = threading.Thread(target=_ingest_repeatedly, args=(view, stop, every_s, parent, server), daemon=True)
    _ingest(view)  # so that the first answer holds the newest jobs; those before them follow
    ingestion.start()
    if port_file is not None:
        write_text(port_file, str(listener.getsockname()[1]))
    logger.info("MLflow listens on http://127.0.0.1:%d", listener.getsockname()[1])
    server.run(sockets=[listener])
    stop.set()
    ingestion.join(timeout=10)


class Gate:
    """Bearer-token authentication, because other users of this machine reach loopback ports as well.

    The artifacts of a job's run are read-only, as the run itself is; MLflow's store isn't consulted when one is written.
    """

    def __init__(self, app: Any, token: str | None, require_open: Callable[[str], None]) -> None:
        self._app = app
        self._bearer = None if token is None else f"Bearer {token}".encode()
        self._require_open = require_open

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = await self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    async def _refusal(self, scope: Any) -> Response | None:
        """Return the answer that refuses a request, or None."""
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if self._bearer is not None and not hmac.compare_digest(authorization, self._bearer):
            return JSONResponse({"message": "The token is missing or wrong."}, 401, {"WWW-Authenticate": "Bearer"})
        if _OFF.match(scope["path"]) or not is_plain(scope["path"].removeprefix("/")):
            off = {
                "error_code": "PERMISSION_DENIED",
                "message": "This path is off here, as MLflow's assistant, jobs and gateway are.",
            }
            return JSONResponse(off, 403)
        artifact = _ARTIFACT_OF_A_RUN.match(scope["path"])
        if artifact is None or scope["method"] in ("GET", "HEAD"):
            return None
        from mlflow.exceptions import MlflowException

        try:
            await asyncio.to_thread(self._require_open, artifact["run"])
        except MlflowException as error:
            return Response(error.serialize_as_json(), error.get_http_status_code(), media_type="application/json")
        return None


def _configure(database: str, artifacts: Path) -> None:
    """Set MLflow's environment variables; this must happen before any of it is imported."""
    os.environ.update(
        {
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_REGISTRY_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": ARTIFACT_ROOT,
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts.as_uri(),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_TRACKING_URI": database,
        }
    )


def _ingest_repeatedly(view: "View", stop: threading.Event, every_s: float, parent: int | None, server: Any) -> None:
    """Ingest jobs every `every_s` seconds, until the process `parent` is gone."""
    while not stop.wait(every_s):
        if parent is not None and not _is_running(parent):
            server.should_exit = True
            return
        _ingest(view)


def _ingest(view: "View") -> None:
    """Ingest jobs; an unreadable line must not end the server."""
    try:
        view.tick()
    except Exception:  # the border: the next tick tries again
        logger.exception("Could not take in what the jobs have written")


def _is_running(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid)) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m mafunzo.entrypoints.mlflow", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the home folder, which has jobs/")
    parser.add_argument("--port-file", type=Path, help="where to write the loopback port once it is taken")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="how often to look for new lines")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process is gone")
    parser.add_argument("--token-file", type=Path, help="holds the bearer token that requests must have")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    token = arguments.token_file.read_text(encoding="ascii").strip() if arguments.token_file else None
    serve(arguments.home.absolute(), arguments.port_file, arguments.every, arguments.parent, token)
