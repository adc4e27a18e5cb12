"""A node of a Ray cluster at work on a step: an actor that has the step's folder there, and runs its processes in it.

The node knows nothing but the packages of its own Python. What the step reads comes as blocks, by content (`transfer.py`); what
it writes is looked at, and read in blocks, by the driver (`ray_driver.py`), which calls the methods here. The processes are
started as a local step's are, by the runner, and on a leash (`leash.py`): with the actor they end too.
"""

import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from mafunzo import cgroup, settings
from mafunzo.control.launcher.leash import Leashed, start_on_leash
from mafunzo.control.launcher.local import ExitRecord, LocalLauncher, Lost
from mafunzo.control.launcher.runner import RANKS, Ranks
from mafunzo.control.launcher.transfer import KEPT_S, Cache, SentFile, files_of, read_block
from mafunzo.tracking.regular_file import read_regular
from mafunzo.tracking.step_folder import StepFolder

NODES_FOLDER = "nodes"
"""The folder for what nodes hold, in the cache of the user whose Ray it is."""
LOOK_BYTES = 4 * 2**20
"""How much of a log a look brings at most."""


class Look(NamedTuple):
    """What is seen of a node's processes. gains: what logs and metrics have more than before, by file. record: how they ended,
    None while they run. checkpoints: those that are whole, by path in the step's folder."""

    gains: Mapping[str, bytes]
    record: ExitRecord | Lost | None
    checkpoints: tuple[str, ...]


class Node:
    """The actor. attempt: the folder of the attempt below that of its step, as on the machine that asks; token: of this try."""

    def __init__(self, host: str, job: str, step: str, attempt: str, token: str) -> None:
        root = settings.load().cache / NODES_FOLDER
        self._host, self._token = host, token
        self._cache = Cache(root / "contents")
        self._job = root / "jobs" / f"{job}-{token}"
        self._step = self._job / step
        self._folder = StepFolder(self._step / attempt)
        self._leash: IO[bytes] | None = None
        self._cache.forget_unused()
        _forget_unused(root / "jobs")
        self._folder.path.mkdir(parents=True, mode=0o700)

    def free_port(self) -> int:
        """Return a port of this node's address that nobody listens on."""
        with socket.socket() as probe:
            probe.bind((self._host, 0))
            return int(probe.getsockname()[1])

    def missing(self, files: Sequence[SentFile]) -> set[str]:
        """Return which contents this node lacks."""
        return self._cache.missing(files)

    def write(self, sha256: str, start: int, block: bytes) -> None:
        """Take in a block of a content."""
        self._cache.write(sha256, self._token, start, block)

    def finish(self, sha256: str) -> None:
        """Put a content in its place that is here whole."""
        self._cache.finish(sha256, self._token)

    def start(
        self,
        files: Sequence[SentFile],
        command: str,
        variables: Mapping[str, str],
        processes: int,
        cpus: int,
        ranks: Ranks,
    ) -> None:
        """Lay out what the step reads, and start its processes."""
        self._cache.lay_out(self._step, files)
        self._folder.outputs.mkdir(exist_ok=True)
        threads = max(1, min(cpus, cgroup.usable_cpus()) // processes)
        environment = {**_interface(self._host), "OMP_NUM_THREADS": str(threads), **variables, RANKS: ranks.text}
        words = ["bash", "-c", command]
        leashed = Leashed(str(self._folder.path), words, environment, processes, discards=str(self._job))
        self._leash = start_on_leash(leashed)

    def look(self, sizes: Mapping[str, int]) -> Look:
        """Return what there is to see; `sizes` says how much of each file is known."""
        os.utime(self._job)  # in use
        status = LocalLauncher().status(self._folder.path)
        record = status if isinstance(status, ExitRecord | Lost) else None  # before the files: all is in them then
        names = [path.name for path in self._folder.path.glob("log*.txt")] + [self._folder.metrics.name]
        gains = {name: _gain(self._folder.path / name, sizes.get(name, 0)) for name in names}
        checkpoints = [path.relative_to(self._folder.path).as_posix() for path in self._folder.checkpoints]
        return Look({name: gain for name, gain in gains.items() if gain}, record, tuple(sorted(checkpoints)))

    def files(self, part: str) -> list[SentFile]:
        """Return the files below a folder of the attempt's, or that one."""
        return files_of(self._folder.path, [self._folder.path / part])

    def read(self, path: str, start: int, size: int) -> bytes:
        """Return a block of a file of the attempt's folder; raises `FileNotFoundError` for one that was deleted meanwhile."""
        return read_block(self._folder.path / path, start, size)

    def error(self) -> str:
        """Return what the step has recorded of its error; empty where it has nothing."""
        return read_regular(self._folder.error) or ""

    def end(self, grace_s: float) -> None:
        """End the processes: SIGTERM, SIGKILL after so long."""
        LocalLauncher().kill(self._folder.path, grace_s)

    def forget(self) -> None:
        """End what is left of the processes, and have the step's folder deleted, soon."""
        if self._leash is not None:
            self._leash.close()
        else:
            shutil.rmtree(self._job, ignore_errors=True)


def _gain(path: Path, size: int) -> bytes:
    with suppress(FileNotFoundError):
        return read_block(path, size, LOOK_BYTES)
    return b""


def _interface(host: str) -> dict[str, str]:
    """Return the variables by which gloo and NCCL talk by the network interface that has this node's address."""
    interfaces = psutil.net_if_addrs().items()
    name = next((name for name, addresses in interfaces if any(one.address == host for one in addresses)), "")
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name} if name else {}


def _forget_unused(jobs: Path) -> None:
    """Delete what attempts left that were cut off long ago."""
    jobs.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in os.scandir(jobs):
        if folder.stat(follow_symlinks=False).st_mtime < time.time() - KEPT_S:
            shutil.rmtree(folder.path, ignore_errors=True)
