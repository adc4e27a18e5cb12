"""Pruning a home: look what it contains, decide (`entities.pruning`), write down what goes, and delete it.

A job is marked before its files are deleted. Who is killed in between leaves a job that holds nothing any more, and the next
pruning deletes what is left of it. Artifacts go under the store's exclusive lock, after a look at the rows under it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from mafunzo.control.launcher.environment import ENVIRONMENTS_FOLDER, environment_folder, last_used_at, remove_unless
from mafunzo.control.serving.request_log import log_files
from mafunzo.control.store import response
from mafunzo.control.store.artifact import GRACE_S
from mafunzo.control.store.blob import ABANDONED_S
from mafunzo.control.store.disk import remove_tree
from mafunzo.control.store.job_files import leftovers_in, logs_in
from mafunzo.control.store.migrations import COPY
from mafunzo.control.store.space import Space, bytes_of
from mafunzo.control.store.usage import CACHED, temporary_paths
from mafunzo.control.workspace.job_handle import job_view
from mafunzo.control.workspace.services import Services
from mafunzo.entities.job import Job
from mafunzo.entities.parameters.component import FETCHING
from mafunzo.entities.pruning import (
    OF_JOBS,
    PRUNED,
    Contents,
    Item,
    Kept,
    PastJob,
    PruneKind,
    PrunePlan,
    Removal,
    StoredArtifact,
    plan,
)
from mafunzo.errors import Conflict, MafunzoError
from mafunzo.tracking.run import run_folders

LOCK_FILE = "prune.lock"
FILES_OF = {PruneKind.JOBS: leftovers_in, PruneKind.LOGS: logs_in}


@dataclass(frozen=True)
class PruneReport:
    """What goes, or went, and what stays and why. failures: what couldn't be deleted. freed_bytes: 0 of a dry run."""

    before: datetime
    kinds: tuple[PruneKind, ...]
    removals: tuple[Removal, ...]
    kept: tuple[Kept, ...]
    is_applied: bool = False
    freed_bytes: int = 0
    failures: tuple[str, ...] = ()


def prune(services: Services, kinds: Set[PruneKind], age_s: float, is_applied: bool) -> PruneReport:
    """Delete what of the kinds hasn't been used for `age_s`, or say what would go. Raises `Conflict` beside another one."""
    moment = datetime.now(UTC)
    before = moment - timedelta(seconds=age_s)
    unnamed_before = min(before, moment - timedelta(seconds=GRACE_S))
    pruner = _Pruner(services, kinds, before, unnamed_before, moment)
    if not is_applied:
        plan = pruner.plan()
        return PruneReport(before, pruner.kinds, plan.removals, plan.kept)
    with _alone(services):
        Space(services.home).free_reserve_if_full()  # to write down what goes
        return pruner.apply()


class _Pruner:
    """One pruning. unnamed_before: as `plan` takes it; moment: when it began."""

    def __init__(
        self, services: Services, kinds: Set[PruneKind], before: datetime, unnamed_before: datetime, moment: datetime
    ) -> None:
        self._services, self._kinds = services, kinds
        self._before, self._unnamed_before, self._moment = before, unnamed_before, moment
        self._failures: list[str] = []
        self.kinds = tuple(kind for kind in PruneKind if kind in kinds)

    def plan(self, kinds: Set[PruneKind] | None = None) -> PrunePlan:
        """Look, and decide."""
        chosen = self._kinds if kinds is None else kinds
        return plan(contents(self._services, chosen, self._before), chosen, self._before, self._unnamed_before)

    def apply(self) -> PruneReport:
        """Look, decide and do, a kind after the other; what can't be deleted of one stops none of the others."""
        plans = [self.plan(self._kinds - {PruneKind.ARTIFACTS})]
        freed = sum(self._remove(removal) for removal in plans[0].removals)
        if PruneKind.ARTIFACTS in self._kinds:
            delete = self._services.artifacts.delete_chosen
            freed += self._attempt("artifacts", lambda: delete(lambda: self._choose_artifacts(plans)))
        removals = tuple(removal for plan in plans for removal in plan.removals)
        kept = dict.fromkeys(kept for plan in plans for kept in plan.kept)
        return PruneReport(self._before, self.kinds, removals, tuple(kept), True, freed, tuple(self._failures))

    def _choose_artifacts(self, plans: list[PrunePlan]) -> list[str]:
        """Return the artifacts to delete, by the rows as they are now, and mark the jobs that they were of."""
        look = contents(self._services, {PruneKind.ARTIFACTS}, self._before)
        chosen = plan(look, {PruneKind.ARTIFACTS}, self._before, self._unnamed_before)
        plans.append(chosen)
        names, views = set(chosen.names(PruneKind.ARTIFACTS)), self._services.records.blobs.views()
        for job in look.jobs:
            if not _is_old(job, self._before):
                continue
            if (view := job_view(job.name)) in views:
                self._services.blobs.withdraw_views(view)
            if job.artifacts & names:
                self._mark(job.name, PruneKind.ARTIFACTS)
        return sorted(names)

    def _remove(self, removal: Removal) -> int:
        """Delete what goes besides artifacts; return the bytes that were freed."""
        if removal.kind in FILES_OF:
            return self._attempt(removal.name, lambda: self._remove_of_job(removal.name, removal.kind))
        path = Path(removal.name)
        if removal.kind is PruneKind.ENVIRONMENTS:
            return self._attempt(removal.name, lambda: self._remove_environment(path, removal.size_bytes))
        return self._delete(path)

    def _remove_of_job(self, job: str, kind: PruneKind) -> int:
        self._mark(job, kind)
        return sum(self._delete(path) for path in FILES_OF[kind](self._services.home.jobs / job))

    def _remove_environment(self, folder: Path, size_bytes: int) -> int:
        is_gone = remove_unless(folder, lambda: folder.name in _needed_environments(self._services))
        return size_bytes if is_gone else 0

    def _delete(self, path: Path) -> int:
        def delete() -> int:
            size = bytes_of(path)
            remove_tree(path)
            return size

        return self._attempt(str(path), delete)

    def _mark(self, name: str, kind: PruneKind) -> None:
        job = self._services.records.jobs.get(name)
        if not job.status.is_terminal:
            raise Conflict(f"Job {name} is {job.status}.")
        marks = {**job.properties.get(PRUNED, {}), str(kind): self._moment.isoformat()}
        self._services.records.jobs.update(replace(job, properties={**job.properties, PRUNED: marks}))

    def _attempt(self, what: str, work: Callable[[], int]) -> int:
        """Return the bytes that some work has freed: what goes wrong with one thing is noted, and the others go on."""
        try:
            return work()
        except (MafunzoError, OSError) as error:
            self._failures.append(f"{what}: {error}")
            return 0


def contents(services: Services, kinds: Set[PruneKind], before: datetime) -> Contents:
    """Return what a home contains of these kinds, and for artifacts whatever may need them."""
    jobs = list(_jobs(services, kinds, before)) if kinds & set(OF_JOBS) else []
    items = [item for kind, items_of in ITEMS.items() if kind in kinds for item in items_of(services)]
    if PruneKind.ARTIFACTS not in kinds:
        return Contents(jobs=jobs, items=items)
    views = {job_view(job.name) for job in jobs if _is_old(job, before)}
    return Contents(jobs, dict(_stored(services)), services.records.artifact_holders(views), items)


def _jobs(services: Services, kinds: Set[PruneKind], before: datetime) -> Iterator[PastJob]:
    artifacts = services.records.artifacts_by_job() if PruneKind.ARTIFACTS in kinds else {}
    needs = _needs(services)
    for job in services.records.jobs.list():
        past = PastJob(
            job.name,
            (job.ended_at or job.created_at) if job.status.is_terminal else None,
            frozenset(artifacts.get(job.name, ())),
            needed_by=needs.get(job.name, ""),
            is_pruned=PruneKind.ARTIFACTS in job.properties.get(PRUNED, {}),
        )
        yield replace(past, sizes=_sizes(services, job, kinds)) if _is_old(past, before) else past


def _is_old(job: PastJob, before: datetime) -> bool:
    return job.ended_at is not None and job.ended_at <= before and not job.needed_by


def _sizes(services: Services, job: Job, kinds: Set[PruneKind]) -> dict[PruneKind, int]:
    """Return what goes of a job's folder by kind; an empty file counts as a byte, since there is something to delete."""
    folder = services.home.jobs / job.name
    files = {kind: list(files_of(folder)) for kind, files_of in FILES_OF.items() if kind in kinds}
    return {kind: max(1, sum(map(bytes_of, paths))) for kind, paths in files.items() if paths}


def _needs(services: Services) -> dict[str, str]:
    """Return by job what has it in its lineage: versions of models, data and components, archived ones too."""
    needs: dict[str, str] = {}
    for asset in services.records.assets.list(with_archived=True):
        if isinstance(job := asset.properties.get("job"), str):
            needs.setdefault(job, f"{asset.key.type} {asset.key} came from it")
    return needs


def _stored(services: Services) -> Iterator[tuple[str, StoredArtifact]]:
    for artifact in services.artifacts.hashes():
        try:
            put_at = datetime.fromtimestamp(services.artifacts.put_at(artifact), UTC)
            files = services.artifacts.manifest(artifact)
        except (MafunzoError, FileNotFoundError):  # damaged, or gone meanwhile
            continue
        yield artifact, StoredArtifact(put_at, {file.sha256: file.size for file in files})


def _environments(services: Services) -> Iterator[Item]:
    needed = _needed_environments(services)
    for folder in _folders(services.home.root / ENVIRONMENTS_FOLDER):
        user = needed.get(folder.name, "")
        yield _item(PruneKind.ENVIRONMENTS, folder, last_used_at(folder), user and f"job {user} needs it")


def _needed_environments(services: Services) -> dict[str, str]:
    """Return which open job needs an environment, by the name of its folder."""
    records, needed = services.records, dict[str, str]()
    for step in records.steps.of_open_jobs():
        if step.spec.runtime is not None and step.spec.runtime.packages and not step.status.is_terminal:
            needed[environment_folder(Path(), step.spec.runtime).name] = step.job
    return needed


def _caches(services: Services) -> Iterator[Item]:
    records = services.records
    fetching = [step.job for step in records.steps.of_open_jobs() if step.spec.component.partition(":")[0] in FETCHING]
    needed_by = f"job {fetching[0]} is about to fetch" if fetching else ""
    for pattern in CACHED:
        for path in sorted(services.cache.glob(pattern)):
            yield _item(PruneKind.CACHES, path, _newest_use(path), needed_by)


def _runs(services: Services) -> Iterator[Item]:
    jobs, needs = services.records.jobs.names(), _needs(services)
    for job, folder in run_folders(services.home.root):
        if job not in jobs:
            yield _item(PruneKind.RUNS, folder, _newest_use(folder), needs.get(job, ""))


def _responses(services: Services) -> Iterator[Item]:
    for path in response.files(services.home):
        yield _item(PruneKind.RESPONSES, path, _used_at(path))


def _backups(services: Services) -> Iterator[Item]:
    """Yield the copies that migrations made; the newest is the only way back, and stays."""
    copies = sorted(services.home.backups.glob(f"{COPY}*"), key=lambda path: path.stat().st_mtime)
    for path in copies:
        needed_by = "it is the newest copy" if path == copies[-1] else ""
        yield _item(PruneKind.BACKUPS, path, path.stat().st_mtime, needed_by)


def _requests(services: Services) -> Iterator[Item]:
    """Yield the request logs, a file a day: whoever reads one keeps it no longer."""
    for path in log_files(services.home):
        yield _item(PruneKind.REQUESTS, path, path.stat().st_mtime)


def _temporary(services: Services) -> Iterator[Item]:
    paths = list(temporary_paths(services.home, services.cache))
    users = _users_of(paths)
    for path in paths:
        yield _item(PruneKind.TEMPORARY, path, _newest_use(path), users.get(path, ""))
    for blocks in sorted((services.home.root / "uploads").glob("*/*/blocks")):
        if time.time() - (used_at := blocks.stat().st_mtime) > ABANDONED_S:
            yield _item(PruneKind.TEMPORARY, blocks.parent, used_at)


ITEMS: dict[PruneKind, Callable[[Services], Iterator[Item]]] = {
    PruneKind.ENVIRONMENTS: _environments,
    PruneKind.CACHES: _caches,
    PruneKind.RUNS: _runs,
    PruneKind.RESPONSES: _responses,
    PruneKind.BACKUPS: _backups,
    PruneKind.REQUESTS: _requests,
    PruneKind.TEMPORARY: _temporary,
}


def _users_of(paths: Sequence[Path]) -> dict[Path, str]:
    """Return which process of this user's names a path: in its arguments, its variables, or as its working directory."""
    users: dict[Path, str] = {}
    for process in psutil.process_iter(["pid", "cmdline", "environ", "cwd"]) if paths else ():
        facts = process.info
        texts = [*(facts["cmdline"] or ()), *(facts["environ"] or {}).values(), facts["cwd"] or ""]
        for path in paths:
            if any(str(path) in text for text in texts):
                users[path] = f"process {facts['pid']} uses it"
    return users


def _item(kind: PruneKind, path: Path, used_at: float, needed_by: str = "") -> Item:
    return Item(kind, str(path), max(1, bytes_of(path)), datetime.fromtimestamp(used_at, UTC), needed_by)


def _newest_use(path: Path) -> float:
    """Return when something in a folder was last written or read, as far as its file system notes that."""
    newest = 0.0
    for where, _, names in os.walk(path):
        for name in [".", *names]:
            newest = max(newest, _used_at(Path(where, name)))
    return max(newest, _used_at(path))


def _used_at(path: Path) -> float:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0.0
    is_file = not path.is_dir()  # whoever looks through a folder reads it
    return max(status.st_mtime, status.st_atime if is_file else 0.0)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir() and not path.is_symlink())


@contextmanager
def _alone(services: Services) -> Iterator[None]:
    """Have one pruning at a time. Raises `Conflict`."""
    descriptor = os.open(services.home.root / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Conflict(f"{services.home.root} is being pruned already. Wait until that has ended.") from error
    finally:
        os.close(descriptor)
