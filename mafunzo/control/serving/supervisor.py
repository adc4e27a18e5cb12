"""Supervision of workers: a loop that keeps up the processes of each deployment. It looks, lets `decide.decide` choose the
actions, and performs them.

Adoption after a crash. Workers are no children that die with the server: each has a runner that outlives it
(`launcher/runner.py`), and all that the loop needs to go on lies in the records and in the workers' folders. A server that
was killed is followed by one that finds, by its first tick, for each worker of a deployment:

    record says        folder says                         so the next tick
    attempt 3          process.json: a live runner         adopts it: same port, same status, no model is loaded again
    attempt 3          exit.json, or a runner that is gone takes it as the worker's end: another start, after the backoff
    attempt 3          no folder                           does the same: the server died before the start
    no such attempt    process.json: a live runner         ends it: the database was put back to an earlier state

A pid alone proves nothing, since the system gives pids out again: a process is ours if its pid, its start time and the folder
in its environment agree (`launcher/local.py`).

Three rules make every action idempotent, so that a crash between any two lines costs nothing but time:
1. The record comes before the deed. An attempt gets its number, and the record says so, before its process starts; no number
   is used twice, and a folder serves one process only.
2. A lease of memory is taken before the record and given back after the process is gone, so that two workers never hold the
   same memory; one whose record was not written is given back at once.
3. What is written is compared first. A deployment that somebody changed since it was read, deleted or given another model
   is left alone, and the next tick decides anew (`_update`).

What is in memory only (`observer`: probes, a comparison under way; the load) can be found out again: the next server asks
`/health` anew, repeats a comparison that had not ended, and waits a whole idle time before it ends a worker.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mafunzo.control.launcher.hardware import half_formats
from mafunzo.control.launcher.local import LocalLauncher, Running, last_lines
from mafunzo.control.launcher.steady_clock import steady_s
from mafunzo.control.serving import mirror_log
from mafunzo.control.serving.adapter_supervisor import AdapterSupervisor
from mafunzo.control.serving.decide import (
    Action,
    Add,
    Drop,
    EndRollout,
    Fail,
    MarkHealthy,
    MarkUnhealthy,
    Refuse,
    Remove,
    Restart,
    Retire,
    Start,
    Stop,
    TakeBack,
    Verify,
    Wake,
    WorkerState,
    completed,
    decide,
    expired,
    rescale,
)
from mafunzo.control.serving.engine import engine_of
from mafunzo.control.serving.load import Loads
from mafunzo.control.serving.memory import (
    MAX_BATCH,
    PROCESS_MB,
    VLLM_MB,
    WorkerMemory,
    adapter_mb,
    booked,
    half_bytes,
    in_words,
    worker_memory,
)
from mafunzo.control.serving.observer import TICK_S, Observer
from mafunzo.control.serving.reference import missing_files, wrong_base
from mafunzo.control.serving.scaler import Scaler
from mafunzo.control.serving.traffic import rebalanced
from mafunzo.control.serving.worker_folder import (
    forget_old_attempts,
    next_attempt,
    read_engine,
    worker_folder,
    worker_token,
)
from mafunzo.control.store import response
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.disk import is_of_the_machine, remove_tree
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.records import Records
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint, Supervision
from mafunzo.entities.engine import GPU_SHARE, Engine, EngineChoice
from mafunzo.entities.job import Resources
from mafunzo.errors import FailedError, MafunzoError, NotFound, OutOfMemory, ServingMismatch, WorkerFailed
from mafunzo.tracking.atomic_json import write_text
from mafunzo.tracking.step_folder import StepFolder

logger = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "mafunzo.compute.inference.worker")
GRACE_S = 10.0
BROKEN = (MafunzoError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What goes wrong with one deployment: its files, or what its record says. A database that can't be reached is none of it."""
LOG_LINES = 12
LEAST_DRAIN_S = 30.0
"""How long a deployment whose lease has ended goes on answering the requests that it has."""
IDLE_REASON = "No request came for long. The next one starts a worker, and waits for it."


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Supervisor:
    """Keeps workers up. `worker` is the command that `--model`, `--name` ... are put behind.

    loads: what the router counts. requests_at_once: how many requests a worker answers together.
    """

    records: Records
    artifacts: Artifacts
    leases: Leases
    launcher: LocalLauncher
    home: Home
    capacity: Resources
    worker: Sequence[str] = WORKER
    clock: Callable[[], float] = steady_s
    moment: Callable[[], datetime] = _now
    loads: Loads = field(default_factory=Loads)
    requests_at_once: int = MAX_BATCH
    _has_swept: bool = False
    _version: int | None = None
    _rows: tuple[Sequence[Endpoint], Sequence[Deployment]] = ((), ())

    def __post_init__(self) -> None:
        self._observer = Observer(self.launcher, self.home, self.clock, self.loads.busy)
        self._scaler = Scaler(self.loads, self.requests_at_once, self.clock)
        self._adapters = AdapterSupervisor(
            self.artifacts, self.leases, self.home, self.capacity, self._observer, self._change, _owner
        )

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set. The workers go on: a later supervisor adopts them."""
        while not stop.is_set():
            try:
                has_acted = self.tick()
            except MafunzoError:
                logger.exception("The supervisor couldn't look after the workers; it tries again")
                has_acted = False
            stop.wait(0.02 if has_acted else TICK_S)
        self.close()

    def close(self) -> None:
        """End the threads that watch. A comparison that is under way is left; the next supervisor makes it anew."""
        self._observer.close()

    def halt(self) -> list[str]:
        """End all workers after `run` returned; those that served start again with the next server. Return their names."""
        halted = []
        for deployment in _workers_of(self._deployments()):
            folder = worker_folder(self.home, deployment)
            try:
                if self._halt(deployment, folder):
                    halted.append(_name(deployment))
            except Exception:  # on a full disk, say: the others are ended all the same, and whoever halts looks again
                logger.exception("%s can't be stopped", _name(deployment))
        return halted

    def _halt(self, deployment: Deployment, folder: Path) -> bool:
        if deployment.attempt == 0 or not isinstance(self.launcher.status(folder), Running):
            return False
        try:
            if not deployment.status.is_settled or deployment.status is DeploymentStatus.HEALTHY:
                reason = "The server was stopped; it starts again with the next."
                self._update(
                    deployment,
                    {"reason": reason, "retry_at": 0.0, "healthy_at": 0.0},
                    status=DeploymentStatus.WAITING,
                    port=None,
                )
        finally:
            self._end(deployment)
        return True

    def tick(self) -> bool:
        """Do at most one thing for each deployment and each worker, and return whether anything changed."""
        deployments = self._deployments()
        workers = _workers_of(deployments)
        if not self._has_swept:
            self._sweep(workers)
        self._observer.watch(workers)
        looks = [(worker, self._look(worker)) for worker in workers]
        states = {(one.endpoint, one.worker): state for one, state in looks if state is not None}
        now = self.clock()
        actions = decide([worker for worker, state in looks if state is not None], states, now)
        counts = self._scaler.instances(deployments)
        rescalings = [rescale(deployment, count, now) for deployment, count in zip(deployments, counts, strict=True)]
        actions += [action for action in rescalings if action is not None]
        has_changed = sum(self._try(action) for action in actions) > 0  # all are tried
        acted_on = {(action.deployment.endpoint, action.deployment.worker) for action in actions}
        for worker, state in looks:
            if state is not None and (worker.endpoint, worker.worker) not in acted_on:
                has_changed = self._adapters.tend(worker, state) or has_changed
        for deployment in completed(deployments):
            has_changed = self._change(deployment, _no_longer_new) is not None or has_changed
        for deployment in expired(deployments, self.moment()):
            self._expire(deployment)
            has_changed = True
        return self._remove_endpoints() or has_changed

    # Guards: what is wrong with one deployment is that deployment's alone

    def _look(self, deployment: Deployment) -> WorkerState | None:
        """Return what is seen of a deployment's worker; one that can't be looked at is given up, and the others go on."""
        try:
            return self._observer.state(deployment)
        except BROKEN as error:
            logger.exception("%s can't be looked at", _name(deployment))
            if not is_of_the_machine(error):
                self._try_to_give_up(deployment, error)
            return None

    def _try(self, action: Action) -> bool:
        """Do it, and return whether anything changed; what breaks ends its deployment only."""
        try:
            return self._perform(action)
        except BROKEN as error:
            self._try_to_give_up(action.deployment, error)
            return False

    def _try_to_give_up(self, deployment: Deployment, error: Exception) -> None:
        known = error if isinstance(error, MafunzoError) else FailedError(f"{type(error).__name__}: {error}")
        try:
            self._give_up(deployment, known)
        except BROKEN:
            logger.exception("%s can't be given up; that is tried again", _name(deployment))

    def _deployments(self) -> list[Deployment]:
        """Return all deployments; those of an endpoint that is being deleted are being deleted."""
        endpoints, deployments = self._read()
        leaving = {endpoint.name for endpoint in endpoints if endpoint.is_deleting}
        return [replace(d, status=DeploymentStatus.DELETING) if d.endpoint in leaving else d for d in deployments]

    def _read(self) -> tuple[Sequence[Endpoint], Sequence[Deployment]]:
        """Return all endpoints and deployments, which are read again only when something was written since."""
        version = self.records.version()  # before the reading: what is written meanwhile is read the next time
        if version is None or version != self._version:
            self._rows = (self.records.endpoints.list(), self.records.deployments.list())
            self._version = version
        return self._rows

    def _sweep(self, workers: Sequence[Deployment]) -> None:
        """End workers that no record knows of: the home's database was put back to an earlier state."""
        known = {worker_folder(self.home, worker) for worker in workers}
        for folder in sorted(self.home.workers.glob("*/*/*")):
            try:
                if folder not in known and isinstance(self.launcher.status(folder), Running):
                    logger.warning("Ending a worker that no deployment has: %s", folder)
                    self.launcher.kill(folder, GRACE_S)
            except BROKEN:
                logger.exception("%s can't be looked at", folder)
        self._has_swept = True

    def _expire(self, deployment: Deployment) -> None:
        """Delete a deployment whose lease has ended: its traffic goes to the others, and without others, its endpoint goes too.

        The endpoint is written first: after a crash in between, the lease has still ended, and the next tick does the rest.
        """
        name, endpoint = deployment.name, self.records.endpoints.get(deployment.endpoint)
        is_last = all(other.name == name for other in self.records.deployments.list(endpoint.name))
        if is_last:
            endpoint = replace(endpoint, is_deleting=True)
        elif endpoint.traffic_percent.get(name):
            shares = rebalanced(endpoint.traffic_percent, name, 0)
            endpoint = replace(endpoint, traffic_percent={one: share for one, share in shares.items() if share})
        mirrors = {other: percent for other, percent in endpoint.mirror_percent.items() if other != name}
        self.records.endpoints.update(replace(endpoint, mirror_percent=mirrors))
        leaves_at = self.clock() + min(LEAST_DRAIN_S, deployment.request_timeout_s)
        self.records.deployments.change(endpoint.name, name, lambda current: current.leaving(leaves_at))
        logger.info(
            "The lease of %s/%s has ended%s", endpoint.name, name, ", and with it the endpoint" if is_last else ""
        )

    def _remove_endpoints(self) -> bool:
        endpoints, deployments = self._read()
        served = {deployment.endpoint for deployment in deployments}
        empty = [endpoint.name for endpoint in endpoints if endpoint.is_deleting and endpoint.name not in served]
        for name in empty:
            self.records.endpoints.delete(name)
            try:
                remove_tree(self.home.workers / name)
                response.forget(self.home, name)
            except OSError as error:
                logger.warning("What endpoint %s has left can't be deleted: %s", name, error)
            logger.info("Deleted endpoint %s", name)
        return bool(empty)

    # Doing

    def _perform(self, action: Action) -> bool:
        """Do it, and return whether anything changed: a worker that waits for memory doesn't change."""
        match action:
            case Start():
                return self._start(action.deployment)
            case Verify():
                self._observer.compare(action.deployment, action.port)
                self._update(action.deployment, {}, status=DeploymentStatus.VERIFYING)
                logger.info("Comparing %s with the tuned model", _name(action.deployment))
            case MarkHealthy():
                self._mark_healthy(action)
            case MarkUnhealthy():
                logger.warning("%s: %s", _name(action.deployment), action.reason)
                self._update(action.deployment, {"reason": action.reason}, status=DeploymentStatus.UNHEALTHY)
            case Restart():
                logger.warning("%s: %s", _name(action.deployment), action.reason)
                memory = {
                    "crashes": action.crashes,
                    "retry_at": action.retry_at,
                    "reason": action.reason,
                    "healthy_at": 0.0,
                }
                self._update(action.deployment, memory, status=DeploymentStatus.WAITING, port=None)
                self._end(action.deployment)
            case Refuse():
                self._refuse(action)
            case Fail():
                log = last_lines(StepFolder(worker_folder(self.home, action.deployment)).log, LOG_LINES)
                self._give_up(action.deployment, WorkerFailed(action.reason, log))
            case Stop():
                self._end(action.deployment)
            case Remove():
                self._remove(action.deployment)
            case Drop():
                self._drop(action.deployment)
            case Wake():
                logger.info("Waking %s", _name(action.deployment))
                reason = "It was idle, and a request waits for it."
                remembered = {"retry_at": 0.0, "crashes": 0, "is_woken": True, "reason": reason}
                self._update(action.deployment, remembered, status=DeploymentStatus.WAITING)
            case Add():
                return self._add(action.deployment, action.number)
            case TakeBack():
                return self._take_back(action.deployment, action.error)
            case EndRollout():
                logger.info(
                    "%s/%s serves %s", action.deployment.endpoint, action.deployment.name, action.deployment.model
                )
                self._change(action.deployment, lambda current: replace(current, rollout=None))
            case Retire():
                logger.info("%s isn't needed any more; it ends with its last request", _name(action.deployment))
                remembered = {"leaves_at": action.leaves_at, "reason": "It isn't needed any more."}
                self._update(action.deployment, remembered, status=DeploymentStatus.DRAINING)
        return True

    def _add(self, deployment: Deployment, number: int) -> bool:
        """Give a deployment one more worker, of the version that it is to serve; return whether it has it."""

        def add(current: Deployment) -> Deployment | None:
            if current != deployment:
                return None
            served = current.served if current.rollout is None else current.rollout.wanted
            is_proven = any(one.artifact == served.artifact and one.supervision.was_healthy for one in current.workers)
            is_returning = current.rollout is not None and current.rollout.error is not None
            reason = "It was added to those that the deployment has."
            supervision = Supervision(was_healthy=is_proven or is_returning, is_woken=True, reason=reason)
            new = replace(
                deployment.workers[0],
                model=served.model,
                artifact=served.artifact,
                base_artifact=served.base_artifact,
                number=number,
                status=DeploymentStatus.WAITING,
                port=None,
                attempt=0,
                verification=None,
                error=None,
                supervision=supervision,
                adapter_states={},
            )
            return current.with_worker(new)

        changed = self._change(deployment, add)
        if changed is not None:
            logger.info(
                "%s/%s gets a worker more: it has %s", deployment.endpoint, deployment.name, len(changed.workers)
            )
        return changed is not None

    def _take_back(self, deployment: Deployment, error: Mapping[str, Any]) -> bool:
        """End a rolling update that failed: the workers of the version before stay, or come back."""

        def take_back(current: Deployment) -> Deployment | None:
            if current.rollout is None or current.rollout != deployment.rollout:
                return None
            changed = replace(current, rollout=replace(current.rollout, error=error))
            for worker in current.workers:
                if worker.artifact == current.rollout.target.artifact:
                    changed = changed.with_worker(replace(worker, status=DeploymentStatus.DRAINING))
            return changed

        logger.error(
            "The update of %s/%s is taken back: %s", deployment.endpoint, deployment.name, error.get("message")
        )
        return self._change(deployment, take_back) is not None

    def _drop(self, worker: Deployment) -> None:
        """Forget a worker that has ended; the last one's deployment is idle."""
        self._end(worker)

        def drop(current: Deployment) -> Deployment | None:
            if _same_worker(current, worker) is None:
                return None
            idle: dict[str, Any] = {
                "retry_at": 0.0,
                "healthy_at": 0.0,
                "crashes": 0,
                "leaves_at": 0.0,
                "reason": IDLE_REASON,
            }
            rest = current.without_worker(worker.number)
            return rest or replace(
                current,
                status=DeploymentStatus.IDLE,
                port=None,
                supervision=replace(current.supervision, **idle),
            )

        self._change(worker, drop)
        logger.info("%s has ended", _name(worker))

    def _start(self, deployment: Deployment) -> bool:
        engine = self._engine(deployment)
        memory = self._memory(deployment, engine)
        resources = booked(memory, self.capacity)
        if not self.leases.take(_owner(deployment), resources, self.capacity):
            if not resources.fits(self.capacity):
                raise OutOfMemory(
                    f"It needs {in_words(resources)}; this machine has {in_words(self.capacity)}. Serve a smaller model."
                )
            reason = f"It needs {in_words(resources)}, which others hold. It starts as soon as they are done."
            if deployment.supervision.reason != reason:
                logger.info("%s waits: %s", _name(deployment), reason)
                self._update(deployment, {"reason": reason})
            return False
        # The record comes first: after a crash in between, the next server finds an attempt that never ran, not a stray worker.
        others = self._other_attempts(deployment)
        attempt = next_attempt(self.home, deployment, others)
        remembered = {"started_at": self.clock(), "healthy_at": 0.0, "reason": "", "memory": str(memory)}
        started = self._update(
            deployment,
            remembered | {"booked_mb": memory.booked_mb - memory.adapters_mb, "engine": str(engine)},
            status=DeploymentStatus.STARTING,
            attempt=attempt,
            port=None,
            error=None,
        )
        if started is None:
            self.leases.release(_owner(deployment))
            return False
        folder = worker_folder(self.home, started)
        folder.mkdir(mode=0o700, parents=True)
        forget_old_attempts(self.home, started, others)
        self.artifacts.require_checked(started.artifact)
        self.artifacts.checkout(started.artifact, folder / "model")
        argv = [*self.worker, "--model", str(folder / "model")]
        base = started.base_artifact
        faults = missing_files(folder / "model")
        if base:
            faults += wrong_base(folder / "model", self.artifacts.manifest(base))
            self.artifacts.require_checked(base)
            self.artifacts.checkout(base, folder / "base")
            argv += ["--base", str(folder / "base")]
        if faults:
            self._refuse(Refuse(started, faults, {"result": "refused", "faults": list(faults)}))
            return True
        argv += ["--name", started.endpoint, "--port", "0", "--port-file", str(folder / "port")]
        write_text(
            folder / "token", worker_token(self.home.secret(), started), mode=0o600
        )  # argv is everybody's to read
        argv += ["--token-file", str(folder / "token")]
        if engine.engine is not Engine.TORCH:
            argv += ["--engine", engine.engine, "--engine-file", str(folder / "engine")]
        if memory.cache_mb is not None:
            argv += ["--cache-mb", str(memory.cache_mb)]
        devices = ",".join(str(device) for device in self.leases.devices(_owner(started)))
        process = self.launcher.start(argv, folder, {"CUDA_VISIBLE_DEVICES": devices} if resources.gpus else {})
        logger.info("Started a worker for %s, attempt %s, process %s: %s", _name(started), attempt, process.pid, memory)
        return True

    def _other_attempts(self, worker: Deployment) -> list[int]:
        """Return the attempts of a deployment's other workers."""
        current = self.records.deployments.get(worker.endpoint, worker.name)
        return [other.attempt for other in current.workers if other.number != worker.number]

    def _engine(self, deployment: Deployment) -> EngineChoice:
        models = (deployment.artifact, deployment.base_artifact)
        return engine_of(
            deployment.engine,
            self.artifacts,
            *models,
            self.capacity,
            deployment.scale.max_instances,
            bool(deployment.adapters),
        )

    def _memory(self, deployment: Deployment, engine: EngineChoice) -> WorkerMemory:
        """Return the memory that a worker books: what it takes, within its share of what others leave: those of its deployment
        that aren't there yet get as much."""
        hashes = [artifact for artifact in (deployment.artifact, deployment.base_artifact) if artifact]
        has_gpu = self.capacity.gpus > 0
        others = [lease for lease in self.leases.list() if lease.owner != _owner(deployment)]
        free_mb = self.capacity.memory_mb - sum(lease.resources.memory_mb for lease in others)
        siblings = sum(lease.owner.partition("#")[0] == _owner(replace(deployment, number=0)) for lease in others)
        free_mb //= max(1, deployment.scale.max_instances - siblings)
        formats = half_formats(has_gpu).held(half_bytes(self.artifacts, hashes), self.capacity.memory_mb * 2**20)
        adapters_mb = sum(adapter_mb(self.artifacts, one.artifact) for one in deployment.adapters.values())
        converts = engine.engine is Engine.OPENVINO
        memory = worker_memory(self.artifacts, hashes, formats, free_mb - adapters_mb, has_gpu, converts)
        if engine.engine is Engine.VLLM:
            memory = replace(memory, process_mb=PROCESS_MB + VLLM_MB, gpu_share=GPU_SHARE)
        return replace(memory, adapters_mb=adapters_mb)

    def _mark_healthy(self, action: MarkHealthy) -> None:
        self._observer.end_comparison(action.deployment)
        changes: dict[str, Any] = {"status": DeploymentStatus.HEALTHY, "port": action.port, "error": None}
        remembered: dict[str, Any] = {"reason": "", "is_woken": False}
        if action.record is not None:
            changes["verification"] = dict(action.record) | {"checked_at": datetime.now(UTC).isoformat()}
            remembered |= {"was_healthy": True, "healthy_at": self.clock()}
            engine = read_engine(worker_folder(self.home, action.deployment))
            remembered |= {"engine": engine} if engine else {}  # not what it was started for, where it fell back
        self._update(action.deployment, remembered, **changes)
        result = (changes.get("verification") or {}).get("result", "answers again")
        logger.info("%s is healthy on port %s: %s", _name(action.deployment), action.port, result)

    def _refuse(self, action: Refuse) -> None:
        message = (
            f"{_name(action.deployment)} doesn't answer as the tuned model did in evaluation, so it doesn't go live."
        )
        mismatch = ServingMismatch(message, action.faults)
        self._give_up(action.deployment, mismatch, status=DeploymentStatus.REFUSED, verification=action.record)

    def _give_up(self, deployment: Deployment, error: MafunzoError, **changes: Any) -> None:
        logger.error("%s failed: %s", _name(deployment), error)
        changes = {"status": DeploymentStatus.FAILED, "port": None, "error": error.record} | changes
        self._end(self._update(deployment, {"reason": error.message}, **changes) or deployment)

    def _end(self, deployment: Deployment) -> None:
        """End the worker, and give back its lease and its folders; its log stays."""
        folder = worker_folder(self.home, deployment)
        if folder.exists():
            self.launcher.kill(folder, GRACE_S)
            remove_tree(folder / "model")
            remove_tree(folder / "base")
            remove_tree(folder / "adapters")
        self.leases.release(_owner(deployment))

    def _remove(self, worker: Deployment) -> None:
        self._end(worker)
        if self.records.deployments.change(
            worker.endpoint, worker.name, lambda current: current.without_worker(worker.number)
        ):
            return
        remove_tree(self.home.workers / worker.endpoint / worker.name)
        mirror_log.forget(self.home, worker.endpoint, worker.name)
        self.records.deployments.delete(worker.endpoint, worker.name)
        logger.info("Deleted deployment %s/%s", worker.endpoint, worker.name)

    def _update(self, worker: Deployment, remembered: Mapping[str, Any], **changes: Any) -> Deployment | None:
        """Write what is `remembered` (fields of `Supervision`) and changes to a worker of a deployment; return the worker.

        Returns None, and writes nothing, when somebody changed it since it was read: the next tick decides anew.
        """

        def update(current: Deployment) -> Deployment | None:
            own = _same_worker(current, worker)
            if own is None:
                return None
            supervision = replace(own.supervision, **remembered)
            return current.with_worker(replace(own, supervision=supervision, **changes))

        changed = self._change(worker, update)
        return None if changed is None else _same_worker(changed, worker)

    def _change(self, worker: Deployment, change: Callable[[Deployment], Deployment | None]) -> Deployment | None:
        """Change the record of a worker's deployment; None, and nothing is written, where it is gone or `change` says so."""
        try:
            return self.records.deployments.change(worker.endpoint, worker.name, change)
        except NotFound:
            return None


def _workers_of(deployments: Sequence[Deployment]) -> list[Deployment]:
    return [worker for deployment in deployments for worker in deployment.workers]


def _no_longer_new(deployment: Deployment) -> Deployment | None:
    return replace(deployment, is_new=False) if deployment.has_all_workers else None


def _same_worker(deployment: Deployment, worker: Deployment) -> Deployment | None:
    """Return the worker as its deployment's record has it now; None where it serves another model by now, or is to go."""
    same = next((one for one in deployment.workers if one.number == worker.number), None)
    if same is None or same.status is DeploymentStatus.DELETING or same.artifact != worker.artifact:
        return None
    return same


def _name(deployment: Deployment) -> str:
    return f"{deployment.endpoint}/{deployment.worker}"


def _owner(deployment: Deployment) -> str:
    return f"worker:{_name(deployment)}"
