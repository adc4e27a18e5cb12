"""The server as a process: where it is found, and how it starts in the background.

The server is named by its module only (`python -m mafunzo.entrypoints.serve`), because what stands below it must not import it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mafunzo.control.store.home import Home
from mafunzo.entities.server_address import LOOPBACK, ServerAddress
from mafunzo.errors import HomeInUse, MafunzoError, ServerFailed, from_record
from mafunzo.tracking.atomic_json import write_json


def find_server(home: Home) -> ServerAddress | None:
    """Return the server that runs on `home`, or None. A stale file of a server that was killed doesn't count."""
    try:
        facts = json.loads(address_file(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if "azure_port" in facts:  # as version 0.1.0 wrote it
        facts["https_port"] = facts.pop("azure_port")
    from mafunzo.control.launcher.tree import live_process  # psutil, which few commands need beside

    address = ServerAddress(**facts)
    return None if live_process(address.pid, address.pid_start, address.identity) is None else address


def write_address(home: Home, address: ServerAddress) -> None:
    """Tell others where the server is: a file that only its user can read, written atomically."""
    write_json(address_file(home), asdict(address), mode=0o600)


def address_file(home: Home) -> Path:
    """Return the path of `server.json`."""
    return home.root / "server.json"


def server_argv(home: Home, port: int, https_port: int, listen: str = LOOPBACK) -> list[str]:
    """Return the command of a server, for a process that becomes one or starts one."""
    argv = [sys.executable, "-m", "mafunzo.entrypoints.serve", "--home", str(home.root), "--port", str(port)]
    return [*argv, "--https-port", str(https_port), "--listen", listen]


def start_in_background(
    home: Home,
    port: int,
    https_port: int,
    database_url: str | None = None,
    timeout_s: float = 120.0,
    listen: str = LOOPBACK,
) -> ServerAddress:
    """Return the server of `home`, started if it doesn't run yet, as soon as it answers.

    It has a session of its own: closing the terminal doesn't end it. Raises what its start raised (`PortInUse`,
    `NewerHome` ...), or `ServerFailed` with the end of its log.
    """
    address = find_server(home)
    if address is not None:
        return address
    with tempfile.TemporaryDirectory(prefix="mafunzo-start-") as folder:
        error_file = Path(folder) / "error.json"
        process = _spawn(home, server_argv(home, port, https_port, listen), database_url, error_file)
        try:
            return _await_answer(home, process, error_file, time.monotonic() + timeout_s)
        except HomeInUse:  # another process started one at the same moment: theirs is as good
            return _await_other(home, time.monotonic() + timeout_s)


def answers(address: ServerAddress) -> bool:
    """Probe the server at `address`; return whether it is ready."""
    import httpx

    try:
        return httpx.get(f"{address.url}/healthz", timeout=5.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _spawn(home: Home, argv: Sequence[str], database_url: str | None, error_file: Path) -> "subprocess.Popen[bytes]":
    environment = dict(os.environ)
    if database_url:
        environment["MAFUNZO_DATABASE_URL"] = database_url  # not on the command line: it may hold a password
    log = os.open(log_file(home), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [*argv, "--error-file", str(error_file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    finally:
        os.close(log)


def log_file(home: Home) -> Path:
    """Return the path of what a background server wrote beside its log: why it didn't start, or how it broke down."""
    return home.logs / "server.out"


def _await_answer(home: Home, process: "subprocess.Popen[bytes]", error_file: Path, deadline: float) -> ServerAddress:
    while time.monotonic() < deadline:
        address = find_server(home)
        if address is not None and address.pid == process.pid and answers(address):
            return address
        if process.poll() is not None:
            raise _error_of(home, process.returncode, error_file)
        time.sleep(0.05)
    process.terminate()
    raise ServerFailed(f"The server didn't answer in time. The end of {log_file(home)}:", _log_end(home))


def _await_other(home: Home, deadline: float) -> ServerAddress:
    while time.monotonic() < deadline:
        address = find_server(home)
        if address is not None and answers(address):
            return address
        time.sleep(0.05)
    raise HomeInUse(f"Another process holds {home.root}, but no server answers there.")


def _error_of(home: Home, exit_code: int, error_file: Path) -> MafunzoError:
    if error_file.exists():
        record = json.loads(error_file.read_text(encoding="utf-8"))
        return from_record(record, ServerFailed(""))
    return ServerFailed(
        f"The server ended with exit code {exit_code} before it answered. The end of {log_file(home)}:",
        _log_end(home),
    )


def _log_end(home: Home) -> list[str]:
    from mafunzo.control.launcher.local import last_lines  # it starts steps, which commands don't

    return last_lines(log_file(home))
