"""Pruning (retention): what of a home may go because of its age, what stays all the same and why; decided without looking.

A job that has ended keeps its row, its metrics and the records of its steps' ends for ever. What goes are the files of its
folder, its logs, and the artifacts that nothing else needs; the job says which went and when (`PRUNED`).
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from mafunzo.entities.duration import age_of
from mafunzo.errors import Faults, did_you_mean

if TYPE_CHECKING:  # commands load this module, and the other loads more
    from mafunzo.entities.job import Job

PRUNED = "pruned"
"""The property of a job that says which kinds of its files were pruned, each with the moment in ISO 8601."""


class PruneKind(StrEnum):
    """What can be pruned.

    jobs: what ended jobs left in their folders, checkpoints too. logs: what their steps printed. artifacts: stored inputs and
    outputs that only they name. caches: downloads and conversions of models and data. environments: those built for users'
    steps. runs: files that jobs which were deleted had logged into their runs. responses: answers of endpoints that were
    stored. backups: copies of the database that were made before its tables changed. requests: prompts and answers that
    deployments were asked to keep. temporary: what interrupted processes left.
    """

    JOBS = "jobs"
    LOGS = "logs"
    ARTIFACTS = "artifacts"
    CACHES = "caches"
    ENVIRONMENTS = "environments"
    RUNS = "runs"
    RESPONSES = "responses"
    BACKUPS = "backups"
    REQUESTS = "requests"
    TEMPORARY = "temporary"


MAX_AGE_S = 100 * 365 * 24 * 3600
OF_JOBS = (PruneKind.JOBS, PruneKind.LOGS, PruneKind.ARTIFACTS)
"""What goes with the age of the job that it belongs to."""


@dataclass(frozen=True)
class PastJob:
    """A job as pruning sees it.

    ended_at: None while it is open. artifacts: all that its rows name. sizes: bytes that its folder holds, by kind.
    needed_by: what needs all of it, such as a registered model whose lineage leads to it. is_pruned: its artifacts were
    pruned, so that it holds none of those that are left.
    """

    name: str
    ended_at: datetime | None
    artifacts: frozenset[str] = frozenset()
    sizes: Mapping[PruneKind, int] = field(default_factory=dict)
    needed_by: str = ""
    is_pruned: bool = False


@dataclass(frozen=True)
class StoredArtifact:
    """When an artifact was last put into the store, and its blobs' sizes by their hashes."""

    put_at: datetime
    blobs: Mapping[str, int]


@dataclass(frozen=True)
class Item:
    """A file or folder that goes with its own age; needed_by: who uses it now."""

    kind: PruneKind
    path: str
    size_bytes: int
    used_at: datetime
    needed_by: str = ""


@dataclass(frozen=True)
class Contents:
    """What a home contains. holders: what besides jobs needs an artifact, by its hash."""

    jobs: Sequence[PastJob] = ()
    stored: Mapping[str, StoredArtifact] = field(default_factory=dict)
    holders: Mapping[str, str] = field(default_factory=dict)
    items: Sequence[Item] = ()


@dataclass(frozen=True)
class Removal:
    """What goes: a job's files or logs by the job's name, an artifact by its hash, anything else by its path."""

    kind: PruneKind
    name: str
    size_bytes: int


@dataclass(frozen=True)
class Kept:
    """What is old enough to go, and stays because of what needs it."""

    kind: PruneKind
    name: str
    reason: str


@dataclass(frozen=True)
class PrunePlan:
    """What goes and what stays."""

    removals: tuple[Removal, ...] = ()
    kept: tuple[Kept, ...] = ()

    def names(self, kind: PruneKind) -> list[str]:
        """Return the names of what goes of one kind."""
        return [removal.name for removal in self.removals if removal.kind is kind]

    def size_bytes(self, kind: PruneKind) -> int:
        """Return how many bytes go of one kind."""
        return sum(removal.size_bytes for removal in self.removals if removal.kind is kind)


def prune_request(older_than: str | timedelta, kinds: Iterable[str]) -> tuple[set[PruneKind], float]:
    """Return the kinds and the age in seconds that were asked for; raises `InvalidParameter` with all faults."""
    faults, known = Faults(), [str(kind) for kind in PruneKind]
    age_s = faults.attempt(
        lambda: older_than.total_seconds() if isinstance(older_than, timedelta) else age_of(older_than), 0.0
    )
    if not 0 <= age_s < MAX_AGE_S:
        faults.add(f"The age is {age_s:g} s, expected 0 s to {MAX_AGE_S // (365 * 24 * 3600)} years.")
    names = [kinds] if isinstance(kinds, str) else list(kinds)
    unknown = [name for name in names if name not in known]
    faults.add(*(f"'{name}' is no kind, expected {', '.join(known)}.{did_you_mean(name, known)}" for name in unknown))
    if not names:
        faults.add(f"No kind is named, expected some of {', '.join(known)}.")
    faults.require_none("Nothing is pruned.")
    return {PruneKind(name) for name in names}, age_s


def plan(contents: Contents, kinds: Set[PruneKind], before: datetime, unnamed_before: datetime) -> PrunePlan:
    """Return what of a home goes, of those kinds and last used at `before` or earlier.

    unnamed_before: when an artifact that no row names must have been put at the latest; a younger one may be about to be named.
    """
    removals: list[Removal] = []
    kept: list[Kept] = []
    old = [job for job in contents.jobs if job.ended_at is not None and job.ended_at <= before]
    if kinds & set(OF_JOBS):
        kept += [Kept(PruneKind.JOBS, job.name, job.needed_by) for job in old if job.needed_by]
    going = [job for job in old if not job.needed_by]
    for kind in (PruneKind.JOBS, PruneKind.LOGS):
        if kind in kinds:
            removals += [Removal(kind, job.name, size) for job in going if (size := job.sizes.get(kind, 0))]
    if PruneKind.ARTIFACTS in kinds:
        names = {job.name for job in going} | {job.name for job in contents.jobs if job.is_pruned}
        artifact_removals, artifacts_kept = _artifacts(contents, names, unnamed_before)
        removals, kept = [*removals, *artifact_removals], [*kept, *artifacts_kept]
    for item in contents.items:
        if item.kind in kinds and item.used_at <= before:
            if item.needed_by:
                kept.append(Kept(item.kind, item.path, item.needed_by))
            else:
                removals.append(Removal(item.kind, item.path, item.size_bytes))
    return PrunePlan(tuple(removals), tuple(kept))


def _artifacts(contents: Contents, going: Set[str], unnamed_before: datetime) -> tuple[list[Removal], list[Kept]]:
    """Return which artifacts go with the jobs that are `going`, and which of theirs stay."""
    holders = dict(contents.holders)
    named_until: dict[str, datetime] = {}
    for job in contents.jobs:
        for artifact in job.artifacts:
            if job.name not in going:
                holders.setdefault(artifact, f"job {job.name} needs it")
            elif job.ended_at is not None:
                named_until[artifact] = max(job.ended_at, named_until.get(artifact, job.ended_at))
    gone = [
        artifact
        for artifact, stored in contents.stored.items()
        if artifact not in holders
        # One that was put again since its job ended may be about to be named by another.
        and stored.put_at <= max(unnamed_before, named_until.get(artifact, unnamed_before))
    ]
    kept = [Kept(PruneKind.ARTIFACTS, name, holders[name]) for name in named_until if name in holders]
    return _sized(contents.stored, gone), [one for one in kept if one.name in contents.stored]


def _sized(stored: Mapping[str, StoredArtifact], gone: Iterable[str]) -> list[Removal]:
    """Return the removals with the bytes that each frees: a blob goes with the first of its artifacts, if all of them go."""
    gone = list(gone)
    counted = {blob for name in stored.keys() - set(gone) for blob in stored[name].blobs}
    removals = []
    for name in gone:
        own = {blob: size for blob, size in stored[name].blobs.items() if blob not in counted}
        counted |= own.keys()
        removals.append(Removal(PruneKind.ARTIFACTS, name, sum(own.values())))
    return removals


def pruned_at(job: "Job", *kinds: PruneKind) -> datetime | None:
    """Return when the newest of those kinds of a job's files was pruned, or None where none was."""
    moments = job.properties.get(PRUNED, {})
    return max((datetime.fromisoformat(moments[kind]) for kind in kinds if kind in moments), default=None)


def pruned_text(job: "Job") -> str:
    """Return in words what of a job's files was pruned, and when; empty where nothing was."""
    moments: dict[str, list[str]] = {}
    for kind, moment in job.properties.get(PRUNED, {}).items():
        moments.setdefault(moment[:10], []).append("files" if kind == PruneKind.JOBS else str(kind))
    return "; ".join(f"{', '.join(kinds)} on {day}" for day, kinds in moments.items())
