"""Supervision of adapters: brings each healthy worker to the adapters that its deployment is to serve, one after another.

The record comes before the deed here too: that an adapter is being loaded is written first, so that one that ends its worker is
known by it, and given up after a few. What goes wrong with an adapter is that adapter's alone, on that worker.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mafunzo.control.serving.adapter import (
    AdapterAction,
    EndAdapter,
    LoadAdapter,
    RefuseAdapter,
    UnloadAdapter,
    decide_adapter,
)
from mafunzo.control.serving.decide import WorkerState
from mafunzo.control.serving.memory import adapter_mb, in_words
from mafunzo.control.serving.observer import Observer
from mafunzo.control.serving.reference import missing_files, wrong_base
from mafunzo.control.serving.worker_folder import adapter_folder_of
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.disk import is_of_the_machine, remove_tree
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.entities.adapter import AdapterState, AdapterStatus, adapter_model
from mafunzo.entities.endpoint import Deployment
from mafunzo.entities.job import Resources
from mafunzo.errors import FailedError, MafunzoError, OutOfMemory, ServingMismatch, WorkerFailed

logger = logging.getLogger(__name__)

Change = Callable[[Deployment, Callable[[Deployment], Deployment | None]], Deployment | None]
"""Changes the record of a worker's deployment, or does nothing where it is gone; as `Supervisor` does."""


@dataclass(frozen=True)
class AdapterSupervisor:
    """Looks after the adapters of all workers of a home. owner: of a worker's lease."""

    artifacts: Artifacts
    leases: Leases
    home: Home
    capacity: Resources
    observer: Observer
    change: Change
    owner: Callable[[Deployment], str]

    def tend(self, worker: Deployment, state: WorkerState) -> bool:
        """Do the next thing about the adapters of a worker (a deployment with that one); return whether anything changed."""
        action = decide_adapter(worker, state)
        if action is None:
            return False
        try:
            self._perform(action)
        except (MafunzoError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            logger.exception("An adapter of %s/%s", worker.endpoint, worker.worker)
            if is_of_the_machine(error):
                return False
            known = error if isinstance(error, MafunzoError) else FailedError(f"{type(error).__name__}: {error}")
            self._refuse(worker, action.name, _artifact(action), known)
        return True

    def _perform(self, action: AdapterAction) -> None:
        worker, name = action.deployment, action.name
        match action:
            case LoadAdapter():
                self._load(worker, name, action.loads)
            case UnloadAdapter():
                self.observer.unload_adapter(worker, name)
            case EndAdapter():
                self._end(action)
            case RefuseAdapter():
                error = WorkerFailed("Workers ended while they loaded or proved it; the last one's log says why.")
                self._refuse(worker, name, _artifact(action), error)

    def _load(self, worker: Deployment, name: str, loads: int) -> None:
        artifact = worker.adapters[name].artifact
        if not self._write(worker, name, AdapterState(artifact, worker.attempt, loads=loads)):
            return
        self._book(worker, name)
        folder = adapter_folder_of(self.home, worker, artifact)
        self.artifacts.require_checked(artifact)
        remove_tree(folder)  # what a server before this one began
        self.artifacts.checkout(artifact, folder)
        faults = missing_files(folder)
        faults += wrong_base(folder, self.artifacts.manifest(worker.base_artifact or worker.artifact))
        if faults:
            record = {"result": "refused", "faults": list(faults)}
            self._refuse(worker, name, artifact, _mismatch(worker, name, faults), record)
            return
        logger.info("Loading %s into %s", adapter_model(worker.endpoint, name), worker.worker)
        self.observer.load_adapter(worker, name, folder)

    def _book(self, worker: Deployment, name: str) -> None:
        """Have the worker's lease hold what it takes with an adapter more. Raises `OutOfMemory` where others hold that."""
        live = [one for one in worker.adapters if worker.adapter_status(one) is AdapterStatus.LIVE]
        needed_mb = worker.supervision.booked_mb + self._adapters_mb(worker, {*live, name})
        lease = next((one.resources for one in self.leases.list() if one.owner == self.owner(worker)), None)
        if lease is None or needed_mb <= lease.memory_mb:
            return
        more = replace(lease, memory_mb=needed_mb)
        if not self.leases.take(self.owner(worker), more, self.capacity):
            raise OutOfMemory(
                f"With it, the worker needs {in_words(more)}, which this machine doesn't have left. Remove another adapter, or "
                "end something else, then add it again."
            )

    def _free(self, worker: Deployment) -> None:
        """Give back what the worker's lease holds for adapters that are gone."""
        wanted = {one for one in worker.adapters if worker.adapter_status(one) is not AdapterStatus.REFUSED}
        lease = next((one.resources for one in self.leases.list() if one.owner == self.owner(worker)), None)
        needed_mb = worker.supervision.booked_mb + self._adapters_mb(worker, wanted)
        if lease is not None and worker.supervision.booked_mb and needed_mb < lease.memory_mb:
            self.leases.take(self.owner(worker), replace(lease, memory_mb=needed_mb), self.capacity)

    def _adapters_mb(self, worker: Deployment, names: set[str]) -> int:
        return sum(adapter_mb(self.artifacts, worker.adapters[name].artifact) for name in names)

    def _end(self, action: EndAdapter) -> None:
        worker, name, verdict = action.deployment, action.name, action.verdict
        self.observer.end_adapter(worker)
        if verdict.broke:
            logger.warning("%s on %s: %s", adapter_model(worker.endpoint, name), worker.worker, verdict.broke)
        elif action.is_unloaded:
            self._write(worker, name, None)
            if all(one.artifact != action.artifact for one in worker.adapters.values()):
                remove_tree(adapter_folder_of(self.home, worker, action.artifact))
            self._free(worker)
            logger.info("Unloaded %s from %s", adapter_model(worker.endpoint, name), worker.worker)
        elif verdict.faults:
            self._refuse(worker, name, action.artifact, _mismatch(worker, name, verdict.faults), verdict.record)
        else:
            proof = dict(verdict.record or {}) | {"checked_at": datetime.now(UTC).isoformat()}
            live = AdapterState(action.artifact, worker.attempt, AdapterStatus.LIVE, verification=proof)
            self._write(worker, name, live)
            logger.info("%s is live on %s: %s", adapter_model(worker.endpoint, name), worker.worker, proof["result"])

    def _refuse(
        self,
        worker: Deployment,
        name: str,
        artifact: str,
        error: MafunzoError,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        logger.error("%s is refused on %s: %s", adapter_model(worker.endpoint, name), worker.worker, error)
        refused = AdapterState(artifact, worker.attempt, AdapterStatus.REFUSED, 1, record, error.record)
        self._write(worker, name, refused)

    def _write(self, worker: Deployment, name: str, state: AdapterState | None) -> bool:
        """Write what became of an adapter on a worker, or forget it; return whether that is still the same worker."""

        def write(current: Deployment) -> Deployment | None:
            same = next((one for one in current.workers if one.number == worker.number), None)
            if same is None or same.attempt != worker.attempt:
                return None
            states = {one: known for one, known in same.adapter_states.items() if one != name}
            if state is not None:
                states[name] = state
            return _noted(current, name, state).with_worker(replace(same, adapter_states=states))

        return self.change(worker, write) is not None


def _noted(deployment: Deployment, name: str, state: AdapterState | None) -> Deployment:
    """Return a deployment that remembers that its adapter has been live, where that is what became of it."""
    adapter = deployment.adapters.get(name)
    if adapter is None or state is None or (state.artifact, state.status) != (adapter.artifact, AdapterStatus.LIVE):
        return deployment
    return replace(deployment, adapters={**deployment.adapters, name: replace(adapter, was_live=True)})


def _artifact(action: AdapterAction) -> str:
    """Return the hash of the adapter that an action is about."""
    if isinstance(action, EndAdapter):
        return action.artifact
    worker, name = action.deployment, action.name
    return (worker.adapter_states if isinstance(action, UnloadAdapter) else worker.adapters)[name].artifact


def _mismatch(worker: Deployment, name: str, faults: tuple[str, ...]) -> ServingMismatch:
    message = (
        f"{adapter_model(worker.endpoint, name)} doesn't answer as the tuned model did in evaluation, so it isn't live."
    )
    return ServingMismatch(message, faults)
