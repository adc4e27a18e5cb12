"""The outbox: the jobs whose end is still to be told elsewhere, a file each, so that none is lost when somebody is down.

`<home>/outbox/<job>.json` is there before the job is marked as ended, and goes once it was delivered. Whoever looks leaves out
those that haven't ended: the server went down in between, and the job is ended again.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mafunzo.control.store.home import Home
from mafunzo.tracking.atomic_json import write_json

FOLDER = "outbox"


@dataclass(frozen=True)
class Notice:
    """A job whose end is to be told. attempts: that have failed. next_at: no attempt before, in epoch seconds."""

    job: str
    attempts: int = 0
    next_at: float = 0.0


class Outbox:
    """The notices of one home."""

    def __init__(self, home: Home) -> None:
        self._folder = home.root / FOLDER

    def put(self, notice: Notice) -> None:
        """Write a notice, in place of an earlier one of its job."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_json(self._path(notice.job), asdict(notice), is_durable=True)

    def remove(self, job: str) -> None:
        """Forget what is to be told of a job."""
        self._path(job).unlink(missing_ok=True)

    def notices(self) -> Iterator[Notice]:
        """Yield all, by their jobs' names; a file that can't be read stands for one that was never tried."""
        for path in sorted(self._folder.glob("*.json")) if self._folder.is_dir() else ():
            try:
                yield Notice(**{**json.loads(path.read_text(encoding="utf-8")), "job": path.stem})
            except (OSError, ValueError, TypeError):
                yield Notice(path.stem)

    def _path(self, job: str) -> Path:
        return self._folder / f"{job}.json"
