"""What a home takes on the disk, by kind: one walk over the names and sizes of its files, none of which is opened."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from mafunzo.control.store.home import Home
from mafunzo.control.store.job_files import is_log

CACHED = (
    "models/?*-v[0-9]*",
    "wheels/?*.whl",
    f"tokens/{'[0-9a-f]' * 32}",
    f"proofs/{'[0-9a-f]' * 64}.json",
)
"""What the cache keeps: conversions, downloads, tokenized rows and what was proven of networks, by their names. Whatever else
is there, in a folder that a user may share with other programs or put a home into, belongs to somebody else."""
SCRATCH_IN_HOME = (".rows-*", ".text-*", ".fetched-*", ".export-*", "uploads/.draft-*", "responses/*/.resp_*")
_RANDOM = "[a-z0-9_]" * 8
SCRATCH_IN_CACHE = (f"models/.new-{_RANDOM}", f"wheels/tmp{_RANDOM}", f"tokens/tmp{_RANDOM}")
SCRATCH_OF_SYSTEM = tuple(f"mafunzo-{what}-{_RANDOM}" for what in ("start", "card", "python"))
"""As `tempfile` names them for those who make them; whatever else is called so, a home perhaps, is somebody's own."""


class UsageKind(StrEnum):
    """What takes room.

    jobs: what lies in their folders besides logs. runs: what MLflow knows of them, and what they have logged with it.
    responses: answers of endpoints that were stored. requests: prompts and answers that deployments were asked to keep.
    other: workers, uploads, the reserve.
    """

    JOBS = "jobs"
    LOGS = "logs"
    ARTIFACTS = "artifacts"
    DATABASE = "database"
    CACHES = "caches"
    ENVIRONMENTS = "environments"
    BACKUPS = "backups"
    RUNS = "runs"
    REQUESTS = "requests"
    TEMPORARY = "temporary"
    RESPONSES = "responses"
    OTHER = "other"


RUNS_FOLDER = "mlflow"
_BY_FOLDER = {"logs", "artifacts", "database", "environments", "backups", "responses", "requests"}
_STORED = {UsageKind.ARTIFACTS, UsageKind.ENVIRONMENTS}


def usage(home: Home, cache: Path) -> dict[UsageKind, int]:
    """Return the bytes on the disk by kind. What has several names is counted where it is stored, not where it is laid out."""
    sizes = dict.fromkeys(UsageKind, 0)
    temporary = [path for path in temporary_paths(home, cache) if not path.is_relative_to(home.root)]
    for path, status in _files([home.root]):
        kind = _kind(path.relative_to(home.root))
        if status.st_nlink == 1 or kind in _STORED:
            sizes[kind] += status.st_blocks * 512
    for kind, folders in {
        UsageKind.CACHES: [path for pattern in CACHED for path in cache.glob(pattern)],
        UsageKind.TEMPORARY: temporary,
    }.items():
        sizes[kind] += sum(status.st_blocks * 512 for _, status in _files(folders))
    return sizes


def _files(roots: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files at and below some paths; links are themselves."""
    for root in roots:
        if root.is_symlink() or not root.is_dir():
            paths: Iterator[Path] = iter([root])
        else:
            paths = (Path(where, name) for where, _, names in os.walk(root) for name in names)
        for path in paths:
            with suppress(OSError):  # gone by now
                yield path, path.lstat()


def _kind(path: Path) -> UsageKind:
    """Return what a path of a home is."""
    top = path.parts[0]
    if top == "jobs":
        return UsageKind.LOGS if is_log(path.parts[2:]) else UsageKind.JOBS
    if any(path.match(pattern) or Path(top).match(pattern) for pattern in SCRATCH_IN_HOME):
        return UsageKind.TEMPORARY
    if top == RUNS_FOLDER:
        return UsageKind.RUNS
    return UsageKind(top) if top in _BY_FOLDER else UsageKind.OTHER


def temporary_paths(home: Home, cache: Path) -> Iterator[Path]:
    """Yield the files and folders of this user that are needed only while a process is at work, in use or left behind."""
    places = [(home.root, pattern) for pattern in SCRATCH_IN_HOME]
    places += [(cache, pattern) for pattern in SCRATCH_IN_CACHE]
    places += [(Path(tempfile.gettempdir()), pattern) for pattern in SCRATCH_OF_SYSTEM]
    return (path for folder, pattern in places for path in sorted(folder.glob(pattern)) if _is_ours(path))


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except FileNotFoundError:
        return False
