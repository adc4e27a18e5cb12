"""The loop that runs jobs: look at all that haven't ended, decide, do.

It keeps nothing in memory that matters. What happened is in the rows, the leases and the attempts' folders, each written
before the next begins, so that a scheduler that starts after a crash goes on from there:
- a lease is taken before the step is marked running, and given back after it is marked as ended;
- a step is marked running before its process starts, and its processes are gone before it is marked as anything else;
- outputs are stored before the step is marked completed, which registers them with the status in one transaction.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from time import monotonic

from mafunzo.control.launcher.local import ExitRecord, LocalLauncher
from mafunzo.control.pipelines.attempt import (
    failure_of,
    outputs_stay,
    step_folder,
    with_leftovers,
)
from mafunzo.control.pipelines.cache import installed_versions
from mafunzo.control.pipelines.decide import (
    WAITS,
    Action,
    Begin,
    Cancel,
    Collect,
    Fail,
    Finish,
    Follow,
    Holder,
    JobState,
    Retry,
    Reuse,
    Skip,
    Start,
    State,
    TakeBest,
    Wait,
    decide,
    need_of,
)
from mafunzo.control.pipelines.observer import HALTED_FILE, Observer, StepName
from mafunzo.control.pipelines.performer import OWNER, Performer, UserVariables, clean_or_warn, owner_of
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.disk import is_of_the_machine
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.outbox import Outbox
from mafunzo.control.store.records import Records
from mafunzo.control.store.space import FLOOR_BYTES, START_BYTES, Space, bytes_in, megabytes
from mafunzo.entities.job import (
    Job,
    Resources,
    Step,
    StepStatus,
)
from mafunzo.errors import JobFailed, MafunzoError, StorageFull
from mafunzo.tracking.step_folder import StepFolder

logger = logging.getLogger(__name__)

WHOLE_JOB = ""
"""Stands in place of a step's name for what is done to a job as a whole."""
BROKEN = (MafunzoError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What goes wrong with one job or step: its files, or what a row says. A database that can't be reached is none of it."""
LEAST_BYTES = 16 * 2**20
"""A step that holds less hasn't filled the disk."""
SWEEP = 5
"""The folders of so many jobs are looked at in a tick."""
POLL_S = 0.2
PAUSE_S = 5.0


class Scheduler:
    """Runs the jobs of one home. Only one may run at a time, which the home's lock sees to.

    capacity: what steps and workers may hold together. grace_s: how long a user's own step may take to end by itself when it
    is cut off; saving_grace_s: one of ours, since training saves a checkpoint first.
    user_variables: a hook that gives the environment variables that a user's own step finds unless it sets them itself.
    space: of the home's disk. clock: the time by which a step waits before it is tried again. outbox: where ends of jobs are
    written that are to be told elsewhere.
    """

    def __init__(
        self,
        records: Records,
        artifacts: Artifacts,
        leases: Leases,
        launcher: LocalLauncher,
        home: Home,
        capacity: Resources,
        *,
        grace_s: float = 10.0,
        saving_grace_s: float = 60.0,
        versions: Callable[[], Mapping[str, str]] = installed_versions,
        user_variables: UserVariables = lambda _job, _step, _inputs, _outputs: {},
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        space: Space | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self._records, self._artifacts, self._leases = records, artifacts, leases
        self._launcher, self._home, self._capacity = launcher, home, capacity
        self._grace_s, self._clock, self._space = grace_s, clock, space or Space(home)
        self._observer = Observer(records, artifacts, launcher, home, versions)
        self._performer = Performer(
            records,
            artifacts,
            leases,
            launcher,
            home,
            capacity,
            self._observer,
            self._space,
            grace_s=grace_s,
            saving_grace_s=saving_grace_s,
            user_variables=user_variables,
            outbox=outbox,
        )
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="step")
        self._busy: dict[StepName, Future[None]] = {}
        self._paused: dict[StepName, float] = {}
        self._wake = threading.Event()
        self._is_recovered = False
        self._unswept: list[Path] = []
        # Of the rows when nothing was to be done: nor is it while they are the same.
        self._quiet_version: int | None = None

    def tick(self) -> bool:
        """Look, decide and do once; return whether anything was done."""
        if not self._is_recovered:
            self._recover()
            self._is_recovered = True
        self._sweep()
        has_settled = self._settle()
        version = self._records.version()
        if version is not None and version == self._quiet_version:
            self._make_space(self._space.free_bytes())
            return has_settled
        awaited = self._give_cores()
        held = self._leases.list()
        holders = tuple(Holder(lease.owner.removeprefix(OWNER), lease.resources) for lease in held)
        left = reduce(Resources.minus, [*(lease.resources for lease in held), *awaited], self._capacity)
        free_bytes = self._space.free_bytes()
        self._make_space(free_bytes)
        busy = {*self._busy, *self._paused}
        jobs = self._records.jobs.queue()
        looks = [self._look(job, busy) for job in jobs if (job.name, WHOLE_JOB) not in busy]
        state = State(tuple(look for look in looks if look is not None), self._capacity, holders)
        self._quiet_version = None if jobs or self._busy else version
        done = [self._try(action) for action in short_of_space(self._decide(state, left), free_bytes)]
        return has_settled or any(done)

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set; running steps go on, and the next scheduler adopts them."""
        while not stop.is_set():
            try:
                did_something = self.tick()
            except Exception as error:  # a full disk or a busy database mustn't end it: the next tick reads the same
                if isinstance(error, StorageFull):
                    self._space.free_reserve()
                logger.exception("The scheduler's tick broke; it goes on")
                stop.wait(PAUSE_S)
                continue
            if not did_something:
                self._wake.wait(POLL_S)
                self._wake.clear()
        self.close()

    def close(self) -> None:
        """Wait for what was begun on single steps; their processes go on."""
        self._pool.shutdown(wait=True)

    def wake(self) -> None:
        """Have the loop look now: a job was added, or is to be canceled."""
        self._wake.set()

    def halt(self) -> list[str]:
        """End all running steps after `run` returned; they run again at the next start. Return their names, `job/step`."""
        halted = []
        for step in self._records.steps.running():
            try:
                if self._halt(step):
                    halted.append(f"{step.job}/{step.name}")
            except Exception:  # on a full disk, say: the others are ended all the same, and whoever halts looks again
                logger.exception("Step %s/%s can't be put back; the next server finds it", step.job, step.name)
        return halted

    def _halt(self, step: Step) -> bool:
        """End a running step, and return whether it was cut off; if it has ended, its outputs are stored at the next start."""
        folder = step_folder(self._home, step)
        if isinstance(self._launcher.status(folder), ExitRecord):
            self._launcher.kill(folder, self._grace_s)
            return False
        try:
            (folder / HALTED_FILE).touch()
        except OSError as error:
            logger.warning("%s counts as cut off from outside: %s", folder, error)
        self._performer.put_back(step, f"attempt {step.attempt} was cut off when the server was stopped")
        return True

    # Guards: what is wrong with one job is that job's alone

    def _look(self, job: Job, busy: Set[StepName]) -> JobState | None:
        """Return a job as it is seen; one that can't be looked at is failed, with why, and the others go on."""
        try:
            return self._observer.job_state(job, busy)
        except BROKEN as error:
            if is_of_the_machine(error):
                raise
            logger.exception("Job %s can't be looked at; it is failed", job.name)
            self._submit_giving_up(job, error)
            return None

    def _decide(self, state: State, left: Resources) -> list[Action]:
        """Decide for all jobs together; one that can't be decided about is failed, and the others go on."""
        now = self._clock()
        try:
            return decide(state, left, now)
        except BROKEN:
            return decide(
                replace(state, jobs=tuple(job for job in state.jobs if self._is_clear(job, state, now))), left, now
            )

    def _is_clear(self, job: JobState, state: State, now: datetime) -> bool:
        try:
            decide(replace(state, jobs=(job,)), self._capacity, now)
        except BROKEN as error:
            logger.exception("What to do about job %s can't be decided; it is failed", job.job.name)
            self._submit_giving_up(job.job, error)
            return False
        return True

    def _try(self, action: Action) -> bool:
        """Do it; an action that breaks is tried again after a pause, from the rows as they are."""
        try:
            return self._do(action)
        except BROKEN as error:
            if is_of_the_machine(error):
                raise
            job, name = _subject(action)
            logger.exception("%s of %s/%s broke; it is tried again", type(action).__name__, job, name)
            self._paused[job, name] = monotonic() + PAUSE_S
            return False

    def _submit_giving_up(self, job: Job, error: Exception) -> None:
        reason = JobFailed(f"Job '{job.name}' can't be gone on with: {type(error).__name__}: {error}")
        self._busy[job.name, WHOLE_JOB] = self._pool.submit(lambda: self._performer.give_up(job, failure_of(reason)))

    # A full disk

    def _make_space(self, free_bytes: int) -> None:
        """Keep the reserve; where the disk is about to be full, end the step that holds most of it."""
        if free_bytes >= FLOOR_BYTES:
            self._space.keep_reserve()
            return
        sizes = [
            (bytes_in(folder), step)
            for step in self._records.steps.running()
            if (step.job, step.name) not in self._busy
            and not _has_succeeded(self._launcher, folder := step_folder(self._home, step))
        ]
        size, largest = max(sizes, key=lambda pair: pair[0], default=(0, None))
        if largest is not None and size >= LEAST_BYTES:
            self._submit(largest, lambda: self._performer.fail_for_space(largest, size))

    # Doing

    def _do(self, action: Action) -> bool:
        match action:
            case Begin(job):
                self._performer.begin(job)
            case Start(step):
                launch = self._performer.start(step)
                if launch is None:
                    return False
                self._submit(step, launch)
            case Reuse(step, outputs, source):
                self._submit(step, lambda: self._performer.reuse(step, outputs, source))
            case TakeBest(step, best):
                self._submit(step, lambda: self._performer.take_best(step, best))
            case Follow(step, reason):
                self._performer.follow(step, reason)
            case Collect(step):
                self._submit(step, lambda: self._performer.collect(step))
            case Retry(step, reason, at):
                self._submit(step, lambda: self._performer.put_back(step, reason, at))
            case Fail(step, reason):
                self._submit(step, lambda: self._performer.fail(step, reason))
            case Cancel(step, reason):
                self._submit(step, lambda: self._performer.cancel(step, reason))
            case Skip(step, reason):
                self._performer.end(step, StepStatus.SKIPPED, reason)
            case Wait(step, reason):
                self._records.steps.update(replace(step, reason=reason))
            case Finish():
                self._performer.finish(action)
        return True

    def _give_cores(self) -> list[Resources]:
        """Give the steps whose environments are built by now their cores; return what those wait for that there isn't yet.

        A step's own time begins here: neither the build nor waiting for cores counts for its limit.
        """
        awaited = []
        for step in self._records.steps.running():
            if (step.job, WHOLE_JOB) in self._busy:  # it is being failed
                continue
            folder = StepFolder(step_folder(self._home, step))
            try:
                if (folder.built.exists() and folder.without_cores.exists()) and not self._performer.take_cores(
                    step, folder
                ):
                    awaited.append(Resources(cpus=need_of(step.spec.resources, self._capacity).cpus))
            except BROKEN as error:
                if is_of_the_machine(error):
                    raise
                logger.exception("Step %s/%s can't be given its cores; its job is failed", step.job, step.name)
                self._submit_giving_up(self._records.jobs.get(step.job), error)
        return awaited

    # Work on a step that takes its time, beside the loop

    def _submit(self, step: Step, work: Callable[[], None]) -> None:
        self._busy[step.job, step.name] = self._pool.submit(work)

    def _settle(self) -> bool:
        """Forget the work that ended; what broke is tried again after a pause, from the rows as they are."""
        ended = [(name, future) for name, future in self._busy.items() if future.done()]
        for name, future in ended:
            del self._busy[name]
            error = future.exception()
            if error is not None:
                logger.error("Work on %s/%s broke; it is tried again", *name, exc_info=error)
                self._paused[name] = monotonic() + PAUSE_S
        self._paused = {name: until for name, until in self._paused.items() if until > monotonic()}
        return bool(ended)

    # After a crash

    def _recover(self) -> None:
        """Give back leases whose steps no longer run; the rows of jobs that have ended aren't read.

        The folders of attempts that ended are cleaned: those of open jobs now, the others a few with each tick, so that no step
        waits for what thousands of past jobs have left.
        """
        owners = {owner_of(step) for step in self._records.steps.running()}
        for lease in self._leases.list():
            if lease.owner.startswith(OWNER) and lease.owner not in owners:
                self._leases.release(lease.owner)
        open_jobs = {job.name for job in self._records.jobs.queue()}
        self._unswept = sorted(self._home.jobs.iterdir(), key=lambda folder: folder.name in open_jobs)
        self._sweep(len(open_jobs))

    def _sweep(self, jobs: int = SWEEP) -> None:
        """Clean the attempts' folders of the next few jobs where something is left in them."""
        for _ in range(min(jobs, len(self._unswept))):
            job = self._unswept.pop()
            try:
                if folders := list(with_leftovers(job)):
                    self._clean_job(job.name, folders)
            except OSError as error:  # it is being deleted, say: nothing waits for it
                logger.warning("What is left in %s can't be looked at: %s", job, error)

    def _clean_job(self, job: str, folders: Iterable[Path]) -> None:
        """Clean attempts' folders of a job where something is left in them; its rows are read for these only."""
        steps = {step.name: step for step in self._records.steps.of(job)}
        for folder in folders:
            step = steps.get(folder.parent.name)
            is_latest = step is not None and folder.name == str(step.attempt)
            if step is None or not (is_latest and step.status == StepStatus.RUNNING):
                clean_or_warn(folder, step is not None and outputs_stay(step, folder))


def short_of_space(actions: Iterable[Action], free_bytes: int) -> list[Action]:
    """Return the actions that are left where the disk is short of space: no step starts, and each says why it waits."""
    if free_bytes >= START_BYTES:
        return list(actions)
    reason = f"{WAITS} disk space: fewer than {megabytes(START_BYTES)} are free"
    rest = [Wait(action.step, reason) if isinstance(action, Start) else action for action in actions]
    return [action for action in rest if not (isinstance(action, Wait) and action.step.reason == action.reason)]


def _has_succeeded(launcher: LocalLauncher, folder: Path) -> bool:
    record = launcher.record(folder)
    return record is not None and record.exit_code == 0


def _subject(action: Action) -> StepName:
    """Return which job, and which step of it, an action is about."""
    if isinstance(action, Begin | Finish):
        return action.job.name, WHOLE_JOB
    return action.step.job, action.step.name
