"""The journal of quotas: a line for each change since the counts were kept, so that whoever kills the server takes none along.

    quotas.json       what was kept last          read in this order:
    quotas.jsonl.1    lines from before that      of a caller's day,
    quotas.jsonl      lines from after that       the last word counts

A line says how much a caller has used by then, not how much was added, so that one that is read beside counts which hold it
already changes nothing; that is why a crash between any two steps of keeping the counts loses nothing. It is written and
not synced: it outlives the process, and a power cut takes the last second along.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mafunzo.entities.rate_limit import DayUsage
from mafunzo.tracking.regular_file import read_regular

logger = logging.getLogger(__name__)


class QuotaJournal:
    """The journal beside the file of counts, which whoever calls locks."""

    def __init__(self, counts: Path) -> None:
        self._file = counts.with_suffix(".jsonl")
        self._before = counts.with_suffix(".jsonl.1")
        self._descriptor: int | None = None
        self._is_broken = False

    def append(self, usage: DayUsage) -> None:
        """Write down what a caller has used; where that fails, as on a full disk, the log says so once."""
        values = (usage.endpoint, usage.caller, usage.day, usage.requests, usage.tokens)
        line = f"\n{json.dumps(values)}".encode()  # the newline first: what was cut off spoils no other line
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if os.write(self._descriptor, line) != len(line):
                raise OSError("the disk is full")
        except OSError as error:
            if not self._is_broken:
                logger.warning("Quotas can't be written down as they are used, only each second: %s", error)
            self._is_broken = True
        else:
            self._is_broken = False

    def rotate(self) -> None:
        """Put the lines until now aside: the counts that are being kept hold them. Those that are aside still wait for that."""
        if self._before.exists():
            return
        self.close()
        with suppress(FileNotFoundError):
            self._file.rename(self._before)

    def forget(self) -> None:
        """Delete the lines that were put aside: the counts are kept."""
        self._before.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def read(self) -> Iterator[DayUsage]:
        """Yield what was written down, the newest last; a line that was cut off is left out."""
        for file in (self._before, self._file):
            for line in (read_regular(file) or "").splitlines():
                with suppress(ValueError, TypeError):
                    yield DayUsage(*json.loads(line))
