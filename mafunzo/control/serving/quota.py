"""What callers have used of their quotas today: counted in memory, kept in `<home>/quotas.json` each second, read at a start.

A day is one of UTC. What changed since the counts were kept is in a journal (`quota_journal.py`), so that none is lost with a
server that is killed.
"""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from mafunzo.control.serving.quota_journal import QuotaJournal
from mafunzo.control.store.home import Home
from mafunzo.entities.rate_limit import DayUsage
from mafunzo.tracking.atomic_json import write_json
from mafunzo.tracking.regular_file import read_regular

logger = logging.getLogger(__name__)

FILE = "quotas.json"
KEEP_S = 1.0
"""How often the counts are written, if there are new ones."""


@dataclass
class DayCount:
    """What one caller has used of an endpoint on a day; tokens may shrink when a request took fewer than it might."""

    endpoint: str
    caller: str
    day: str
    requests: int = 0
    tokens: int = 0

    @property
    def usage(self) -> DayUsage:
        """What it is now."""
        return DayUsage(self.endpoint, self.caller, self.day, self.requests, self.tokens)


class Quotas:
    """The counts of today, of all callers of all endpoints. The router counts, a loop keeps the file."""

    def __init__(self, file: Path | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """file: where they are kept; None for nowhere."""
        self._file, self._now = file, now
        self._journal = None if file is None else QuotaJournal(file)
        self._lock = threading.Lock()
        self._day = self._today()
        usages = read_file(file) if file is not None else []
        self._counts = {
            (usage.endpoint, usage.caller): DayCount(**asdict(usage)) for usage in usages if usage.day == self._day
        }
        self._is_kept = True

    def count(self, endpoint: str, caller: str) -> DayCount:
        """Return what a caller has used today; `add` changes it."""
        with self._lock:
            self._forget_yesterday()
            return self._counts.get((endpoint, caller), DayCount(endpoint, caller, self._day))

    def add(self, endpoint: str, caller: str, requests: int, tokens: int) -> DayCount:
        """Count a request's part; return the count, which `settle` takes."""
        with self._lock:
            self._forget_yesterday()
            count = self._counts.setdefault((endpoint, caller), DayCount(endpoint, caller, self._day))
            count.requests += requests
            count.tokens += tokens
            self._note(count)
            return count

    def settle(self, count: DayCount, more_tokens: int) -> None:
        """Add the tokens that a request took more than it was charged, on the day on which it was."""
        with self._lock:
            count.tokens = max(0, count.tokens + more_tokens)
            self._note(count)

    def reset_s(self) -> float:
        """Return the seconds until the day is over."""
        now = self._now()
        midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
        return (midnight - now).total_seconds()

    def run(self, stop: threading.Event) -> None:
        """Keep the file until it is to stop, then once more."""
        while not stop.wait(KEEP_S):
            self.keep()
        self.keep()

    def keep(self) -> None:
        """Write the counts if there are new ones; a full disk is told in the log, and they are written later."""
        if self._file is None or self._journal is None:
            return
        try:
            with self._lock:
                if self._is_kept:
                    return
                bodies = [asdict(count) for count in self._counts.values()]
                self._is_kept = True
                self._journal.rotate()
            write_json(self._file, bodies, mode=0o600)
            self._journal.forget()
        except OSError as error:
            self._is_kept = False
            logger.warning("The counts of quotas weren't kept: %s", error)

    def _note(self, count: DayCount) -> None:
        """Write a change down, which outlives the process with that, until all counts are kept."""
        self._is_kept = False
        if self._journal is not None:
            self._journal.append(count.usage)

    def _forget_yesterday(self) -> None:
        if (today := self._today()) != self._day:
            self._day, self._counts = today, {}

    def _today(self) -> str:
        return self._now().astimezone(UTC).date().isoformat()


def quota_file(home: Home) -> Path:
    """Return where a home keeps what was used of quotas."""
    return home.root / FILE


def read_file(file: Path) -> list[DayUsage]:
    """Return the counts, with what was written down since they were kept; none that a missing or damaged file would have."""
    usages = [*_kept(file), *QuotaJournal(file).read()]
    return list({(usage.endpoint, usage.caller, usage.day): usage for usage in usages}.values())


def _kept(file: Path) -> list[DayUsage]:
    try:
        return [DayUsage(**usage) for usage in json.loads(read_regular(file) or "[]")]
    except (ValueError, TypeError):
        logger.warning("%s can't be read, so that quotas begin anew", file)
        return []
