"""Processes on this machine: start one, poll its status, terminate its process tree.

A process is known by the folder that it runs in, so that whoever comes after a crash finds it: `process.json` and
`exit.json` there are its runner's (see `runner.py`), and every process of its tree carries the folder in the environment
variable `MAFUNZO_STEP_FOLDER`.

Adoption: how a process is found again. `process.json` is made once, by a hard link, which only one of two can make; whoever
makes it owns the folder for good. `exit.json` comes last, whole. So a folder says, whoever asks and however often:

    process.json    exit.json   runner   status
    none            none        -        Lost, once we have made process.json ourselves (`_give_up`): a runner that was only
                                         just starting finds it taken, and ends
    {pid: null}     none        -        Lost: given up before anything ran
    {pid, start}    none        lives    Running: whoever asks has adopted it
    {pid, start}    none        is gone  Lost: killed outright, or the machine went down
    {pid, start}    there       -        its ExitRecord
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from mafunzo.control.launcher.runner import claim
from mafunzo.control.launcher.tree import Tree, live_process, mark_of
from mafunzo.errors import Conflict, FailedError
from mafunzo.tracking.printable import printable
from mafunzo.tracking.regular_file import is_regular, open_regular, read_regular
from mafunzo.tracking.step_folder import STEP_FOLDER, StepFolder

logger = logging.getLogger(__name__)

HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""The variables with the hub's token, which the step that fetches models has, and no other process."""
RAY_TOKEN = "RAY_AUTH_TOKEN"
"""The variable with the token of a Ray cluster, which only processes have that talk to one."""
KEPT_FROM_CHILDREN = ("MAFUNZO_DATABASE_URL", *HUB_TOKENS, RAY_TOKEN)  # the first may hold a password
PASSIVE_WAIT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP threads wait for one another asleep: threads that spin take the cores from every other process. For users' commands;
our own follow what the machine does (`compute/device/waiting.py`)."""
LAST_BYTES = 64 * 1024
START_TIMEOUT_S = 120.0
KILL_TIMEOUT_S = 30.0
RECORD_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Running:
    """The runner lives."""

    pid: int
    pid_start: float


@dataclass(frozen=True)
class ExitRecord:
    """How it ended. exit_code: 128 + the signal where one ended it; times in epoch seconds; peak_memory_mb: of the whole tree;
    is_out_of_memory: the kernel ended it for want of memory."""

    exit_code: int
    signal: int | None
    pid: int
    pid_start: float
    started_at: float
    ended_at: float
    peak_memory_mb: float = 0.0
    is_out_of_memory: bool = False

    @property
    def is_killed(self) -> bool:
        """Whether SIGKILL or SIGTERM ended it, itself or its last command: cut off from outside."""
        return self.exit_code in (128 + signal.SIGKILL, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Lost:
    """Its runner is gone without a word, or never was."""


class LocalLauncher:
    """Starts and ends processes on this machine. Holds no state that matters: another launcher can adopt them at any time."""

    def __init__(self) -> None:
        self._children: dict[Path, subprocess.Popen[bytes]] = {}
        self._tree = Tree()

    def start(
        self,
        command: str | Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        processes: int = 1,
        directory: Path | None = None,
        defaults: Mapping[str, str] = MappingProxyType({}),
    ) -> Running:
        """Start a command (a text is bash's), `processes` times side by side; it works in `directory`, by default `folder`.

        defaults: environment variables for where neither this process nor `environment` has them.
        Raises `Conflict` if the folder was used or given up before, `FailedError` if no process could be made.
        """
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if StepFolder(folder).process.exists():
            raise Conflict(f"{folder} was used by another process before. Start in a new folder.")
        argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
        runner = [sys.executable, "-m", "mafunzo.control.launcher.runner", str(folder), str(processes), *argv]
        inherited = {name: value for name, value in os.environ.items() if name not in KEPT_FROM_CHILDREN}
        own = {"PYTHONUNBUFFERED": "1", STEP_FOLDER: str(folder), **_search_paths({**inherited, **environment})}
        with StepFolder(folder).log.open("ab") as log:
            try:
                child = subprocess.Popen(
                    runner,
                    cwd=directory or folder,
                    env={**defaults, **inherited, **environment, **own},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise FailedError(f"No process can be started in {folder}: {error}") from error
        self._children[folder] = child
        return self._wait_for_claim(child, folder)

    def status(self, folder: Path) -> Running | ExitRecord | Lost:
        """Return what became of the process. `Lost` is final: the folder is given up, nothing can start there afterwards."""
        folder = folder.resolve()
        self._reap(folder)
        record = _exit_record(folder)
        if record is None:
            runner = _runner(folder)
            if runner is not None:
                return Running(runner.pid, runner.create_time())
            record = _exit_record(folder)  # it may have ended between the two looks
        if record is not None:
            return record
        if _give_up(folder):
            return Lost()
        return Lost() if _runner(folder) is None and _exit_record(folder) is None else self.status(folder)

    def kill(self, folder: Path, grace_s: float = 10.0) -> None:
        """Terminate the process tree, also what made its own session: SIGTERM, SIGKILL after a grace period.

        Idempotent; nothing can start in the folder afterwards.
        """
        folder = folder.resolve()
        try:
            _give_up(folder)
        except OSError as error:  # on a full disk, say: what runs is ended all the same
            logger.warning("%s can't be given up: %s", folder, error)
        runner = _runner(folder)
        signalled_pids: set[int] = set()
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and ((tree := self._tree_of(folder, runner)) or _runner(folder) is not None):
            for process in tree:
                if process.pid not in signalled_pids:
                    _signal(process, signal.SIGTERM)
                    signalled_pids.add(process.pid)
            time.sleep(0.05)
        self._kill_for_good(folder, runner)
        self._reap(folder)

    def record(self, folder: Path) -> ExitRecord | None:
        """Return how the process in the folder ended; None if it didn't, or left no word."""
        return _exit_record(folder.resolve())

    def lives(self, folder: Path) -> bool:
        """Return whether the process in the folder runs. A look only: nothing is given up, as `status` would."""
        return _runner(folder.resolve()) is not None

    def was_cut_off(self, folder: Path) -> bool:
        """Return whether a process began in the folder and was ended from outside: by a signal, or without a word."""
        folder = folder.resolve()
        record = _exit_record(folder)
        if record is not None:
            return record.is_killed and not record.is_out_of_memory
        return _process_record(folder).get("pid") is not None and _runner(folder) is None

    def _wait_for_claim(self, child: "subprocess.Popen[bytes]", folder: Path) -> Running:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not StepFolder(folder).process.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                child.kill()
                code = child.wait()
                del self._children[folder]
                if code == -signal.SIGKILL and claim(folder, {"pid": child.pid, "pid_start": 0.0}):
                    return Running(child.pid, 0.0)  # cut off from outside before it began: lost, as if it were later
                raise FailedError(
                    f"The runner in {folder} ended before it began.", last_lines(StepFolder(folder).log, 5)
                )
            time.sleep(0.005)
        record = _read(StepFolder(folder).process) or {}
        if record.get("pid") != child.pid:
            child.wait()
            raise Conflict(f"{folder} was taken by another process. Start in a new folder.")
        return Running(child.pid, float(record["pid_start"]))

    def _tree_of(self, folder: Path, runner: psutil.Process | None) -> list[psutil.Process]:
        session = _process_record(folder).get("pid")
        return self._tree.of(folder, runner, session)

    def _kill_for_good(self, folder: Path, runner: psutil.Process | None) -> None:
        """SIGKILL the tree until it's gone. Its runner may only just begin it, and has time to write the exit record."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        record_deadline = time.monotonic() + RECORD_TIMEOUT_S
        while (tree := self._tree_of(folder, runner)) or (runner is not None and _runner(folder) is not None):
            for process in tree:
                _signal(process, signal.SIGKILL)
            if runner is not None and time.monotonic() > record_deadline:
                _signal(runner, signal.SIGKILL)
            if time.monotonic() > deadline:
                pids = ", ".join(str(process.pid) for process in tree)
                raise FailedError(f"These processes of {folder} don't end, even by SIGKILL: {pids}.")
            time.sleep(0.02)
        if runner is not None:
            with suppress(psutil.TimeoutExpired):  # another process' child
                runner.wait(0)

    def _reap(self, folder: Path) -> None:
        child = self._children.get(folder)
        if child is not None and child.poll() is not None:
            del self._children[folder]


def last_lines(log: Path, count: int = 10) -> list[str]:
    """Return the last lines of a log that aren't blank, as a terminal would show them; none without a log."""
    if not is_regular(log):
        return []
    with open_regular(log) as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [printable(line) for line in lines if line][-count:]


def _search_paths(environment: Mapping[str, str]) -> dict[str, str]:
    """`python` is ours, and finds this very code, so that a checkout that isn't installed works too."""
    ours = str(Path(__file__).resolve().parents[3])
    python_path = [path for path in (environment.get("PYTHONPATH"), ours) if path]
    path = [str(Path(sys.executable).parent), environment.get("PATH") or os.defpath]
    return {"PYTHONPATH": os.pathsep.join(python_path), "PATH": os.pathsep.join(path)}


def _runner(folder: Path) -> psutil.Process | None:
    """Return the live runner: the same pid, start and folder, so never a stranger that was given its pid."""
    record = _process_record(folder)
    if record.get("pid") is None:
        return None
    process = live_process(int(record["pid"]), float(record["pid_start"]), str(record.get("identity") or ""))
    with suppress(psutil.Error):
        return process if process is not None and mark_of(process) in (None, str(folder)) else None
    return None


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):  # it has ended by itself
        process.send_signal(number)


def _give_up(folder: Path) -> bool:
    """Take the folder so that a runner that is only just starting finds it taken and ends; return whether it was free."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return not StepFolder(folder).process.exists() and claim(folder, {"pid": None})


def _exit_record(folder: Path) -> ExitRecord | None:
    record = _read(StepFolder(folder).exit)
    try:
        return None if record is None else ExitRecord(**record)
    except TypeError:  # the step wrote over it
        return None


def _process_record(folder: Path) -> dict[str, Any]:
    """Return what `process.json` says; nothing where it isn't what a runner writes."""
    record = _read(StepFolder(folder).process) or {}
    numbers = [record.get(name) for name in ("pid", "pid_start")]
    return record if all(isinstance(number, int | float) for number in numbers) else {}


def _read(path: Path) -> dict[str, Any] | None:
    """Return a record; None where there is none, or a power cut broke it, or the step left something else in its place."""
    try:
        body = json.loads(read_regular(path) or "")
    except (OSError, ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
