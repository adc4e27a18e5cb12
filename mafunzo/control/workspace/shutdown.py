"""`mafunzo down`: stop the server and all that it started, and look again whether anything is left."""

import logging
import os
import socket
import time
from collections.abc import Iterator, Set
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.control.launcher.runner import process_identity
from mafunzo.control.launcher.server_process import address_file, find_server
from mafunzo.control.launcher.tree import live_process
from mafunzo.control.pipelines.scheduler import Scheduler
from mafunzo.control.serving.supervisor import Supervisor
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.control.store.space import Space
from mafunzo.entities.job import Resources
from mafunzo.entities.server_address import LOOPBACK
from mafunzo.errors import MafunzoError, ServerFailed
from mafunzo.tracking.step_folder import STEP_FOLDER

logger = logging.getLogger(__name__)

SERVER_GRACE_S = 60.0
"""For its last requests and what its loops are doing; it can be killed at any moment without harm."""
GRACE_S = 10.0
POLL_S = 0.1


@dataclass(frozen=True)
class EndedProcess:
    """A process that ran: what it was for, the memory that was its own, and where it listened."""

    pid: int
    pid_start: float
    purpose: str
    memory_mb: float
    ports: tuple[int, ...] = ()
    identity: str = ""


@dataclass(frozen=True)
class DownReport:
    """What was freed. It is made only after a second look found none of it, so it is the proof as well.

    steps: cut off, and run again when the server starts again. deployments: served again then. unwritten: why that isn't
    written down; then the next server finds out what was cut off.
    """

    home: str
    processes: tuple[EndedProcess, ...] = ()
    steps: tuple[str, ...] = ()
    deployments: tuple[str, ...] = ()
    unwritten: str = ""

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(sorted({port for process in self.processes for port in process.ports}))

    @property
    def memory_mb(self) -> float:
        return round(sum(process.memory_mb for process in self.processes), 1)

    def lines(self) -> list[str]:
        """Return the report as text."""
        if not self.processes:
            return [f"Nothing was running on {self.home}: no process, port or lock of it is there."]
        lines = [f"Ended {process.purpose}: {_describe(process)}" for process in self.processes]
        if self.steps:
            lines.append(f"Cut off, to run again when the server starts: {', '.join(self.steps)}")
        if self.deployments:
            lines.append(f"Served again when the server starts: {', '.join(self.deployments)}")
        if self.unwritten:
            lines.append(f"Not written down, so that the next server finds out what was cut off: {self.unwritten}")
        freed = f"{len(self.processes)} processes, {len(self.ports)} ports, {self.memory_mb:.0f} MB and the lock"
        return [*lines, f"Freed {freed} of {self.home}; looked again: none of them is left."]


def shut_down(home: Home, database_url: str | None = None) -> DownReport:
    """End the server of `home`, its steps, its workers and whatever else it started, and return what was freed.

    Jobs and endpoints stay: what was cut off goes on when the server starts again. Raises `ServerFailed` with what is left.
    """
    processes = {process.pid: process for process in _inventory(home)}
    if server := _server(home):
        _end(server, SERVER_GRACE_S)
    with home.lock():
        steps, deployments, unwritten = _halt_loops_or_why_not(home, database_url)
        for process in _inventory(home):
            processes.setdefault(process.pid, process)
        for alive in filter(None, map(_alive, processes.values())):
            _end(alive, GRACE_S)
        address_file(home).unlink(missing_ok=True)
    report = DownReport(str(home.root), tuple(processes.values()), tuple(steps), tuple(deployments), unwritten)
    left = list(_left(home, report))
    if left:
        raise ServerFailed(f"Not all that ran on {home.root} has ended.", left)
    return report


def _halt_loops_or_why_not(home: Home, database_url: str | None) -> tuple[list[str], list[str], str]:
    """Put back what was cut off, or return why nothing can be written down: processes are ended all the same."""
    Space(home).free_reserve_if_full()
    try:
        return *_halt_loops(home, database_url), ""
    except (MafunzoError, OSError) as error:
        logger.exception("Nothing can be written down of what is stopped")
        return [], [], str(error)


def _halt_loops(home: Home, database_url: str | None) -> tuple[list[str], list[str]]:
    """Put back what was cut off, as the loops themselves would."""
    with closing(open_database(home, database_url)) as database:
        records, artifacts, leases = Records(database), Artifacts(home.artifacts), Leases(database)
        nothing = Resources(cpus=0)
        steps = Scheduler(records, artifacts, leases, LocalLauncher(), home, nothing).halt()
        with closing(Supervisor(records, artifacts, leases, LocalLauncher(), home, nothing)) as supervisor:
            return steps, supervisor.halt()


def _inventory(home: Home) -> Iterator[EndedProcess]:
    """Yield the server, its descendants, and every process that carries the mark of a folder in the home."""
    server = _server(home)
    descendants = {child.pid for child in server.children(recursive=True)} if server else set()
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        folder = _marked_folder(process, home)
        if server is not None and process.pid == server.pid:
            purpose = "server"
        elif folder is not None:
            purpose = _purpose(folder, home)
        elif process.pid in descendants:
            purpose = "child of the server"
        else:
            continue
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield _snapshot(process, purpose)
        except psutil.NoSuchProcess:
            continue


def _server(home: Home) -> psutil.Process | None:
    address = find_server(home)
    pid = home.holder() or (address.pid if address else None)
    if pid == os.getpid():  # which holds the lock while it looks again
        return None
    try:
        return psutil.Process(pid) if pid is not None else None
    except psutil.NoSuchProcess:
        return None


def _marked_folder(process: psutil.Process, home: Home) -> Path | None:
    try:
        mark = process.environ().get(STEP_FOLDER, "")
    except (psutil.Error, OSError):  # of another user
        return None
    folder = Path(mark)
    return folder if mark and folder.is_relative_to(home.root) else None


def _purpose(folder: Path, home: Home) -> str:
    kind = {home.jobs: "step", home.workers: "worker"}
    for parent, noun in kind.items():
        if folder.is_relative_to(parent):
            return f"{noun} {'/'.join(folder.relative_to(parent).parts[:2])}"
    return str(folder.relative_to(home.root))


def _snapshot(process: psutil.Process, purpose: str) -> EndedProcess:
    with process.oneshot():
        memory_mb, ports = _memory_mb(process), _ports(process)
        identity = process_identity(process.pid)
        return EndedProcess(process.pid, process.create_time(), purpose, memory_mb, ports, identity)


def _memory_mb(process: psutil.Process) -> float:
    """The share of memory that its end frees: pages that several processes map count in part."""
    try:
        own = process.memory_full_info().pss
    except (psutil.AccessDenied, AttributeError):  # not Linux, or not ours
        own = process.memory_info().rss
    return round(own / 2**20, 1)


def _ports(process: psutil.Process) -> tuple[int, ...]:
    try:
        connections = process.net_connections("tcp")
    except psutil.AccessDenied:
        return ()
    return tuple(sorted({entry.laddr.port for entry in connections if entry.status == psutil.CONN_LISTEN}))


def _end(process: psutil.Process, grace_s: float) -> None:
    """Ask a process to end, and kill it if it doesn't."""
    with suppress(psutil.NoSuchProcess):
        process.terminate()
        if not _has_ended(process, grace_s):
            logger.warning("Process %s didn't end in %g s; it is killed", process.pid, grace_s)
            process.kill()
            _has_ended(process, GRACE_S)


def _has_ended(process: psutil.Process, timeout_s: float) -> bool:
    """Wait for a process to end, and return whether it did. One that its parent hasn't asked after yet has ended too."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            process.wait(POLL_S)
            return True
        except psutil.TimeoutExpired:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
    return False


def _alive(record: EndedProcess) -> psutil.Process | None:
    """Return that very process, not a later one with its id."""
    return live_process(record.pid, record.pid_start, record.identity)


def _left(home: Home, report: DownReport) -> Iterator[str]:
    """Check again: yield what is still there."""
    for record in report.processes:
        if _alive(record) is not None:
            yield f"{record.purpose}: {_describe(record)} still runs."
    known = {record.pid for record in report.processes}
    for record in _inventory(home):
        if record.pid not in known:
            yield f"{record.purpose}: {_describe(record)} runs; it wasn't there before."
    for port in report.ports:
        if _is_ours(port, known):
            yield f"Port {port} is still open."
    if home.holder() is not None:
        yield f"Process {home.holder()} holds the lock of {home.root}."


def _is_ours(port: int, pids: Set[int]) -> bool:
    """Return whether the port still takes connections, unless a stranger took it by now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((LOOPBACK, port)) != 0:
            return False
    try:
        listening = [entry for entry in psutil.net_connections("tcp") if entry.status == psutil.CONN_LISTEN]
    except psutil.AccessDenied:
        return True
    return any(entry.laddr and entry.laddr.port == port and entry.pid in {None, *pids} for entry in listening)


def _describe(process: EndedProcess) -> str:
    ports = f", port {', '.join(str(port) for port in process.ports)}" if process.ports else ""
    return f"process {process.pid}{ports}, {process.memory_mb:.0f} MB"
