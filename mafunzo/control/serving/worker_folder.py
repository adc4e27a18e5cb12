"""A worker's folder, `<home>/workers/<endpoint>/<deployment>/<attempt>/`: where things lie in it, and how its end reads.

`model/` and `base/` are checked out read-only, `port` and `engine` are written by the worker, `token` is what it asks for;
`log.txt` and `exit.json` are the launcher's.
"""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from mafunzo.control.launcher.local import ExitRecord, last_lines
from mafunzo.control.store.disk import remove_tree
from mafunzo.control.store.home import Home
from mafunzo.entities.endpoint import Deployment
from mafunzo.tracking.log import tail
from mafunzo.tracking.regular_file import read_regular
from mafunzo.tracking.step_folder import StepFolder

KEPT_ATTEMPTS = 10
FINAL_EXIT_CODES = (2, 3)
"""A worker that was asked for something malformed, or refused it (`errors.py`): another start would end the same."""


def worker_folder(home: Home, deployment: Deployment) -> Path:
    """Return the folder of a deployment's worker, whose attempt no other worker of the deployment has."""
    return home.workers / deployment.endpoint / deployment.name / str(deployment.attempt)


def adapter_folder_of(home: Home, deployment: Deployment, artifact: str) -> Path:
    """Return where the files of an adapter lie, by their hash, that a deployment's worker serves beside its model."""
    return worker_folder(home, deployment) / "adapters" / artifact.rpartition(":")[2][:16]


def worker_token(secret: bytes, deployment: Deployment) -> str:
    """Return the bearer token of a deployment's worker, derived from the home's secret.

    So it is written nowhere but into the worker's own folder, and a server that adopts the worker knows it.
    """
    worker = f"mafunzo worker {deployment.endpoint}/{deployment.name}/{deployment.attempt}"
    return hmac.new(secret, worker.encode(), hashlib.sha256).hexdigest()


def next_attempt(home: Home, deployment: Deployment, others: Iterable[int] = ()) -> int:
    """Return a number that neither the records, with the `others` of the deployment, nor any folder has: a folder serves one
    process only."""
    return max([deployment.attempt, *others, *_attempts(home, deployment)]) + 1


def forget_old_attempts(home: Home, deployment: Deployment, others: Iterable[int] = ()) -> None:
    """Keep the newest folders of a deployment and its `others` only; a model in a crash loop leaves one a minute."""
    present = set(others)
    for number, folder in _attempts(home, deployment).items():
        if number <= deployment.attempt - KEPT_ATTEMPTS and number not in present:
            remove_tree(folder)


def read_port(folder: Path) -> int | None:
    """Return where the worker listens, or None before it does."""
    path = folder / "port"
    text = (read_regular(path) or "").strip()
    return int(text) if text.isdigit() else None


def read_engine(folder: Path) -> str:
    """Return what the worker says that it computes with, or an empty text before it does."""
    return (read_regular(folder / "engine") or "").strip()


def describe_end(record: ExitRecord | None, folder: Path) -> str:
    """Return in words how a worker ended, with what it said last."""
    if record is None:
        return "it is gone without a record of its end"
    how = f"killed by signal {record.signal}" if record.signal else f"exit code {record.exit_code}"
    if record.is_out_of_memory:
        how = f"out of memory at {record.peak_memory_mb:.0f} MB ({how})"
    last = last_lines(StepFolder(folder).log, 1)
    return how + (f"; its last words were: {last[0][:300]}" if last else "")


def is_final(record: ExitRecord | None) -> bool:
    """Return whether another start would end the same."""
    return record is not None and not record.signal and record.exit_code in FINAL_EXIT_CODES


def last_log(home: Home, deployment: Deployment, count: int) -> list[str]:
    """Return the last `count` lines of the newest worker that said anything; none when none did."""
    logs = (StepFolder(folder).log for _, folder in sorted(_attempts(home, deployment).items(), reverse=True))
    ends = (tail(log, count) for log in logs)
    return next((lines for lines in ends if any(map(str.strip, lines))), [])


def _attempts(home: Home, deployment: Deployment) -> dict[int, Path]:
    """Return the folders of all workers of a deployment that aren't forgotten, by number."""
    folders = worker_folder(home, deployment).parent.glob("*")
    return {int(folder.name): folder for folder in folders if folder.name.isdigit()}
