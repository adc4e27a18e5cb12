"""The process tree of a folder: descendants of its runner, its session, whoever carries its mark, and their descendants.

A process shows no environment at all while it executes a program anew, for some milliseconds; it's looked at again before it
is taken for a stranger, because a child that is missed would outlive its step.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from mafunzo.control.launcher.runner import process_identity
from mafunzo.tracking.step_folder import STEP_FOLDER

LOOKS, LOOK_EVERY_S = 10, 0.01
SAME_START_S = 2.0
"""Two readings of a process's start that differ by no more are the same process, where no identity was written down."""


@dataclass(frozen=True)
class _Snapshot:
    process: psutil.Process
    parent: int
    session: int
    mark: str | None  # None: no environment could be read

    @property
    def identity(self) -> tuple[int, float]:
        return self.process.pid, self.process.create_time()


class Tree:
    """Finds processes by folder; remembers strangers that never show an environment."""

    def __init__(self) -> None:
        self._strangers: set[tuple[int, float]] = set()

    def of(self, folder: Path, runner: psutil.Process | None, session: int | None) -> list[psutil.Process]:
        """Return what runs for `folder`, its runner and this very process apart.

        `session` is that of its runner, living or not; it can't be given to others while a process is in it.
        """
        apart = {os.getpid(), runner.pid if runner is not None else 0}
        snapshots = {one.process.pid: one for one in map(_look, psutil.process_iter()) if one is not None}
        members = _members(snapshots.values(), folder, runner, session)
        if not members - apart:
            later_snapshots = self._look_again(snapshots)
            members = _members((snapshots | later_snapshots).values(), folder, runner, session)
        return [snapshots[pid].process for pid in members - apart if pid in snapshots]

    def _look_again(self, snapshots: Mapping[int, _Snapshot]) -> dict[int, _Snapshot]:
        """Return what the processes without an environment show once they have one, or have gone."""
        hidden = {one.identity: one for one in snapshots.values() if one.mark is None}
        self._strangers &= set(hidden)
        unclear = {identity: one for identity, one in hidden.items() if identity not in self._strangers}
        updates: dict[int, _Snapshot] = {}
        for _ in range(LOOKS):
            if not unclear:
                return updates
            time.sleep(LOOK_EVERY_S)
            for identity, one in list(unclear.items()):
                snapshot = _look(one.process) if one.process.is_running() else None
                if snapshot is None or snapshot.mark is not None:
                    del unclear[identity]
                    updates |= {one.process.pid: snapshot} if snapshot is not None else {}
        self._strangers |= set(unclear)
        return updates


def live_process(pid: int, pid_start: float, identity: str = "") -> psutil.Process | None:
    """Return that very process, never one that was given its pid; None if it's gone, or a zombie.

    identity: as `runner.process_identity` returned it, which the clock doesn't move; earlier versions wrote `pid_start` only.
    """
    try:
        process = psutil.Process(pid)
        has_same_start = abs(process.create_time() - pid_start) <= SAME_START_S
        is_same = process_identity(pid) == identity if identity else has_same_start
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, ValueError, OverflowError):  # the last two for what is no pid
        return None


def mark_of(process: psutil.Process) -> str | None:
    """Return the folder that a process carries, "" for none, None if it shows no environment now. Raises psutil's errors."""
    environment = process.environ()
    return str(environment.get(STEP_FOLDER, "")) if environment else None


def _look(process: psutil.Process) -> _Snapshot | None:
    """Return what is seen of a process; None if it's gone, or a thread of the kernel."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        if process.status() == psutil.STATUS_ZOMBIE or process.memory_info().vms == 0:
            return None
        try:
            mark = mark_of(process)
        except psutil.AccessDenied:  # another user's
            mark = ""
        return _Snapshot(process, process.ppid(), os.getsid(process.pid), mark)
    return None


def _members(
    snapshots: Iterable[_Snapshot], folder: Path, runner: psutil.Process | None, session: int | None
) -> set[int]:
    pids = {runner.pid} if runner is not None else set()
    rest = []
    for one in snapshots:
        is_of_session = session is not None and one.session == session and one.mark in (None, str(folder))
        if one.mark == str(folder) or is_of_session:
            pids.add(one.process.pid)
        else:
            rest.append(one)
    has_grown = True
    while has_grown:
        children = {one.process.pid for one in rest if one.parent in pids and one.process.pid not in pids}
        pids |= children
        has_grown = bool(children)
    return pids
