"""The runs under which jobs and the steps of users log: their ids, known before anything has started, and what they logged.

A way in by which programs log files says where those are: it adds its `LoggedFolders` at the start of a process.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_RUN_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}")
LoggedFolders = Callable[[Path, str], Iterable[tuple[str, Path]]]
"""Returns the folders of a home's root into which a run has logged files, each after what their paths begin with."""
RunFolders = Callable[[Path], Iterable[tuple[str, Path]]]
"""Returns the folders of a home's root into which runs have logged files, each after the job that it is of: empty for a run
that is there no more. Those of runs that are no job's aren't among them."""
_sources: list[LoggedFolders] = []
_run_folders: list[RunFolders] = []


def job_run_id(job: str) -> str:
    """Return the id of a job's run: its name, so that whoever knows the job finds it, where a run's id may be that."""
    return job if _RUN_ID.fullmatch(job) else _digest(job)


def step_run_id(job: str, step: str, attempt: int, is_alone: bool) -> str:
    """Return the id of the run that an attempt of a user's step logs into.

    is_alone: the job has no other step; then the job's own run is the step's too.
    """
    return job_run_id(job) if is_alone else _digest(f"{job}/{step}/{attempt}")


def add_logged_folders(source: LoggedFolders) -> None:
    """Let `logged_folders` look where a way in keeps what programs log, from now on in this process. Idempotent."""
    if source not in _sources:
        _sources.append(source)


def add_run_folders(source: RunFolders) -> None:
    """Let `run_folders` look where a way in keeps what runs have logged, from now on in this process. Idempotent."""
    if source not in _run_folders:
        _run_folders.append(source)


def run_folders(home: Path) -> Iterator[tuple[str, Path]]:
    """Yield every folder of files that runs of jobs have logged, after the job's name; empty for a run that is gone."""
    for source in _run_folders:
        yield from source(home)


def logged_folders(home: Path, run_id: str) -> Iterator[tuple[str, Path]]:
    """Yield what the paths of logged files begin with, and a folder of them; of equal paths, the later one counts."""
    for source in _sources:
        yield from source(home, run_id)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
