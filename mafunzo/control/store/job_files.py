"""What lies in the folders of jobs, told apart by whether it is a log, a record, or something else; links aren't followed.

<home>/jobs/<job>/stream.txt           a log
<home>/jobs/<job>/<step>/<attempt>/    log.txt, log.N.txt and logs/ are logs; metrics and what tells of its end are records
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mafunzo.tracking.step_folder import LOGS, StepFolder

STREAM_FILE = "stream.txt"
"""The log of a whole job that versions before wrote beside its steps'."""
_PLACE = StepFolder(Path())
_LOG = re.compile(rf"log(\.\d+)?\.txt|{LOGS}")
_RECORDS = {_PLACE.metrics.name, _PLACE.exit.name, _PLACE.error.name, _PLACE.process.name, "halted"}


def logs_in(job: Path) -> Iterator[Path]:
    """Yield the logs of a job's folder: files, and what its commands wrote to `./logs`."""
    for entry in _entries(job):
        if entry.name == STREAM_FILE:
            yield Path(entry)
    yield from (Path(entry) for entry in _of_attempts(job) if _LOG.fullmatch(entry.name))


def leftovers_in(job: Path) -> Iterator[Path]:
    """Yield what the attempts of a job's steps have left besides logs and records, such as checkpoints."""
    for entry in _of_attempts(job):
        if not _LOG.fullmatch(entry.name) and entry.name not in _RECORDS:
            yield Path(entry)


def is_log(parts: Sequence[str]) -> bool:
    """Return whether the file whose path below its job's folder has these parts is a log, or one of those in `./logs`."""
    if len(parts) == 1:
        return parts[0] == STREAM_FILE
    return len(parts) > 2 and parts[1].isdigit() and _LOG.fullmatch(parts[2]) is not None


def _of_attempts(job: Path) -> Iterator[os.DirEntry[str]]:
    for step in _folders(job):
        for attempt in _folders(Path(step)):
            if attempt.name.isdigit():
                yield from _entries(Path(attempt))


def _folders(folder: Path) -> Iterator[os.DirEntry[str]]:
    return (entry for entry in _entries(folder) if entry.is_dir(follow_symlinks=False))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # it goes meanwhile, or its step has closed it
        return []
