"""The server process: one a home, one port, two loops."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from mafunzo.control.serving import mirror_log, request_log
from mafunzo.control.serving.load import Loads
from mafunzo.control.serving.metrics import RequestMetrics, WorkerMetrics
from mafunzo.control.serving.quota import Quotas, quota_file
from mafunzo.control.serving.request_log import RequestLog
from mafunzo.control.serving.router import Router
from mafunzo.control.serving.supervisor import WORKER
from mafunzo.control.workspace import AuditLog, Home, Workspace
from mafunzo.control.workspace.server import announced, loops_of, require_space, webhook_of
from mafunzo.entities.job import Job, Step, StepStatus
from mafunzo.entities.server_address import LOOPBACK, ServerAddress
from mafunzo.entrypoints.http.auth import endpoints_key, operator_key
from mafunzo.entrypoints.http.context import Context, Loop
from mafunzo.entrypoints.http.cors import Cors, require_origins
from mafunzo.entrypoints.http.directory import Directory
from mafunzo.entrypoints.http.identity import OPERATOR_AUDIENCE, Attempt, Identity, identity_of
from mafunzo.entrypoints.http.limits import DEFAULTS, Limits
from mafunzo.entrypoints.http.listen import host_names, listen, names_of, require_owner
from mafunzo.entrypoints.http.slow_clients import server_options
from mafunzo.entrypoints.serve.metrics import Books
from mafunzo.entrypoints.serve.ways_in import (
    MlflowRoutes,
    StepAccess,
    http_app,
    https_app,
    mlflow_way_in,
    needs_https,
    step_variables,
)
from mafunzo.errors import NotFound
from mafunzo.tracking.run import step_run_id

logger = logging.getLogger(__name__)

LAST_REQUESTS_S = 10
"""How long requests that are under way may still take once the server is asked to stop."""
LAST_TICK_S = 60.0
LOG_BYTES = 10 * 2**20
LOG_FILES = 3


def serve(
    home: Home,
    port: int,
    https_port: int,
    database_url: str | None = None,
    worker: Sequence[str] = WORKER,
    address: str = LOOPBACK,
    authorities: Path | None = None,
    on_up: Callable[[ServerAddress], None] | None = None,
    limits: Limits = DEFAULTS,
    names: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> None:
    """Run the server of `home` until SIGTERM or SIGINT. Steps and workers go on: the next server adopts them.

    A port of 0 takes a free one; `worker` is the command of a worker; both ports listen on `address`; clients trust
    `authorities` (default: the public ones) and ours; `limits` bound what they may ask, `names` are what they may call it
    beside its own names, and web pages of `origins` may ask endpoints. `on_up` is called once requests are taken. Raises
    `InvalidParameter` for names and origins that can't be, `HomeInUse`, `PortInUse`, `NewerHome`, or `RefusedError` for an
    address that others reach while the home has no owner among its users.
    """
    os.umask(0o077)
    _stop_at_signals()
    require_origins(origins)
    names = tuple(dict.fromkeys([*names_of(address), *host_names(names)]))
    with (
        home.lock(),
        listen(port, "--port", address, limits.connections_waiting) as listener,
        _listen_https(https_port, address, limits) as https_listener,
        Workspace(home.root, database_url=database_url) as loop_workspace,  # with connections that no request holds
        Workspace(home.root, port=port, https_port=https_port, database_url=database_url) as workspace,
    ):
        require_owner(address, workspace.users.list())
        require_space(workspace)
        own = _own_address(listener, https_listener, address)
        identity = identity_of(home, workspace.home_user)
        _forget_own_keys(os.environ, (operator_key(home), identity.header))
        variables = partial(_variables_of_a_step, loop_workspace, own, identity)
        loads = Loads()
        scheduler, supervisor = loops_of(loop_workspace, variables, worker, loads, limits.requests_at_once)
        supervisor.tick()  # so that no request goes to a port that was a worker's before the machine restarted
        mlflow = mlflow_way_in(home, workspace.jobs)
        loops = [Loop("scheduler", scheduler.run), Loop("supervisor", supervisor.run)]
        loops += [mlflow.loop] if mlflow else []
        quotas = Quotas(quota_file(home))
        loops += [Loop("quotas", quotas.run)]
        webhook = webhook_of(loop_workspace, lambda job: {"server": own.url})
        loops += [Loop("webhook", webhook.run)] if webhook else []
        context = _context(workspace, names, limits, loops, loads, quotas)
        routes = mlflow.routes(workspace, context) if mlflow else MlflowRoutes()
        servers = [(_server(_opened(http_app(context, routes), origins), limits, lifespan="on"), listener)]
        if https_listener is not None:
            secure = https_app(home, own, workspace, context, routes, authorities)
            tls = {"ssl_certfile": secure.certificate, "ssl_keyfile": secure.key}
            servers.append(
                (_server(_opened(secure.app, origins), limits, _Quiet, lifespan="off", **tls), https_listener)
            )
        _serve_until_stopped(workspace, own, loops, servers, on_up)


def _context(
    workspace: Workspace,
    names: Sequence[str],
    limits: Limits,
    loops: Sequence[Loop],
    loads: Loads,
    quotas: Quotas,
) -> Context:
    metrics = CollectorRegistry()
    metrics.register(Books(workspace))
    metrics.register(WorkerMetrics(workspace.deployments.list, workspace.home.secret()))
    directory = Directory(workspace.endpoints, workspace.database.version, partial(endpoints_key, workspace.home))
    return Context(
        directory=directory,
        metrics=metrics,
        operator_key=operator_key(workspace.home),
        identity=identity_of(workspace.home, workspace.home_user),
        users=workspace.users,
        audit=AuditLog(workspace.home),
        names=names,
        limits=limits,
        router=Router(
            RequestMetrics(metrics),
            limits.requests_in_flight,
            requests_at_once=limits.requests_at_once,
            current=directory.current,
            secret=workspace.home.secret(),
            loads=loads,
            record=partial(mirror_log.append, workspace.home),
            request_log=RequestLog(partial(request_log.append, workspace.home)),
            quotas=quotas,
        ),
        responses=workspace.responses,
        mirror_report=lambda name: workspace.endpoints.get(name).mirror_report(),
        loops=loops,
        is_running=partial(_is_running, workspace),
    )


def _is_running(workspace: Workspace, attempt: Attempt) -> bool:
    """Return whether that very attempt of a step runs."""
    try:
        steps = workspace.jobs.get(attempt.job).steps
    except NotFound:
        return False
    return any(
        (step.name, step.attempt, step.status) == (attempt.step, attempt.number, StepStatus.RUNNING) for step in steps
    )


def _forget_own_keys(environment: MutableMapping[str, str], keys: Sequence[str]) -> None:
    """Drop what opens this very server from what its steps and workers inherit: it may be started where `mafunzo env` was."""
    for name in [name for name, value in environment.items() if any(key in value for key in keys)]:
        del environment[name]


def _listen_https(port: int, address: str, limits: Limits) -> AbstractContextManager[socket.socket | None]:
    """Return the socket of the https port, or None where no way in needs it."""
    return listen(port, "--https-port", address, limits.connections_waiting) if needs_https() else nullcontext()


def _variables_of_a_step(
    workspace: Workspace,
    own: ServerAddress,
    identity: Identity,
    job: Job,
    step: Step,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
) -> dict[str, str]:
    """Return the variables that tell a user's own step what it runs in; a job's only step has the job's run.

    The token among them is the step's own, and ends with it.
    """
    attempt = Attempt(job.name, step.name, step.attempt)
    key = identity.step_token(OPERATOR_AUDIENCE, attempt, job.created_by or workspace.home_user)
    is_alone = len(workspace.jobs.get(job.name).steps) == 1
    uri = f"http://{own.host}:{own.port}/mlflow"
    run_id = step_run_id(job.name, step.name, step.attempt, is_alone)
    access = StepAccess(workspace.home, own, key) if own.https_port is not None else None
    return step_variables(uri, key, job, run_id, inputs, outputs, access)


class _Quiet(uvicorn.Server):
    """A server that leaves signals to the one beside it, whose end ends it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run_all(servers: Sequence[tuple[uvicorn.Server, socket.socket]]) -> None:
    """Serve until the first server ends, which ends the others."""
    (first, listener), *others = servers
    beside = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in others]
    try:
        await first.serve(sockets=[listener])
    finally:
        for server, _ in others:
            server.should_exit = True
        await asyncio.gather(*beside)


def _opened(app: FastAPI, origins: Sequence[str]) -> ASGIApp:
    return Cors(app, origins) if origins else app


def _server(app: ASGIApp, limits: Limits, kind: type[uvicorn.Server] = uvicorn.Server, **more: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_REQUESTS_S,
        **server_options(limits),
        **more,
    )
    return kind(config)


def _serve_until_stopped(
    workspace: Workspace,
    address: ServerAddress,
    loops: Sequence[Loop],
    servers: Sequence[tuple[uvicorn.Server, socket.socket]],
    on_up: Callable[[ServerAddress], None] | None,
) -> None:
    for loop in loops:
        loop.start()
    try:
        with announced(workspace, address):
            logger.info("Server %s is up, process %s, home %s", address.url, address.pid, workspace.home.root)
            logger.info("OpenAI's SDK: base_url %s/v1; the key: mafunzo endpoint keys NAME", address.url)
            if on_up is not None:
                on_up(address)
            asyncio.run(_run_all(servers))
    except KeyboardInterrupt:
        logger.info("Asked to stop")
    finally:
        _ignore_signals()
        for loop in loops:
            if not loop.stop(LAST_TICK_S):
                logger.warning("The %s is still busy after %g s; it is left", loop.name, LAST_TICK_S)
        logger.info("Server stopped. Steps and workers that run go on, for the next server; 'mafunzo down' ends them")


def log_to(home: Home) -> None:
    """Write what is logged into `logs/server.log`, and onto the terminal where there is one."""
    os.umask(0o077)
    handlers: list[logging.Handler] = [
        RotatingFileHandler(home.logs / "server.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    ]
    if sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=handlers)
    for noisy in ("httpx", "httpcore", "aiohttp", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _own_address(listener: socket.socket, https_listener: socket.socket | None, address: str) -> ServerAddress:
    return ServerAddress(
        pid=os.getpid(),
        pid_start=psutil.Process().create_time(),
        port=listener.getsockname()[1],
        started_at=datetime.now(UTC).isoformat(),
        https_port=https_listener.getsockname()[1] if https_listener else None,
        listen=address,
    )


def _stop_at_signals() -> None:
    """Let SIGTERM end the server as Ctrl-C does, in good order, also before and after uvicorn looks at signals itself.

    Closing the terminal ends nothing.
    """

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, _do_nothing)


def _ignore_signals() -> None:
    """It is ending already."""
    signal.signal(signal.SIGTERM, _do_nothing)
    signal.signal(signal.SIGINT, _do_nothing)


def _do_nothing(*_: object) -> None:
    """Instead of SIG_IGN, which a step that the last tick starts would inherit, so that it couldn't be ended."""
