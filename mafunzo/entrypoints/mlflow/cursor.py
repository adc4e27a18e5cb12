"""How far the jobs were looked at for MLflow, so that a look reads what has changed since the last one, and no more."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mafunzo.entities.job import Job

RECENT = 100
"""How many names are kept: where the newest jobs were deleted, the next look goes back to one of the others."""


@dataclass(frozen=True)
class Cursor:
    """The state between two looks.

    recent: the newest jobs that were seen, the newest first; what is newer than all of them is new. open: those that hadn't
    ended when they were seen. older: the position in the list of jobs below which none was seen yet, unless `is_whole`.
    """

    recent: tuple[str, ...] = ()
    open: frozenset[str] = frozenset()
    older: int | None = None
    is_whole: bool = False

    def forward(self, new: Iterable[Job], open_jobs: Iterable[Job]) -> "Cursor":
        """Return it after a look at new jobs, and again at those that were open."""
        new, known = list(new), set(self.recent)
        names = (*(job.name for job in new if job.name not in known), *self.recent)
        return replace(self, recent=names[:RECENT], open=_open((*new, *open_jobs)))

    def back(self, page: Sequence[tuple[int, Job]], size: int) -> "Cursor":
        """Return it after a look at the next page of older jobs, with their positions; size: of a page that isn't the last."""
        older = page[-1][0] if page else self.older
        return replace(self, open=self.open | _open(job for _, job in page), older=older, is_whole=len(page) < size)

    def body(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"recent": self.recent, "open": sorted(self.open), "older": self.older, "is_whole": self.is_whole}


def cursor_of(body: Mapping[str, Any]) -> Cursor:
    """Return a cursor from its JSON; raises `LookupError` or `TypeError` for something else."""
    older = body["older"]
    return Cursor(
        tuple(body["recent"]), frozenset(body["open"]), None if older is None else int(older), body["is_whole"]
    )


def _open(jobs: Iterable[Job]) -> frozenset[str]:
    return frozenset(job.name for job in jobs if not job.status.is_terminal)
