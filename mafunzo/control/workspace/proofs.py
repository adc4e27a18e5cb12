"""The proof that serving equals training, made again while the workers answer: of each worker's model, and each adapter on it.

Nothing is taken out of service for it. What answers as in evaluation is written down. What doesn't is left to the supervisor,
which compares it once more, as at its start, and then refuses it.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from mafunzo.control.serving.decide import Verdict
from mafunzo.control.serving.traffic import is_live
from mafunzo.control.serving.verification import verify_folder
from mafunzo.control.serving.worker_folder import adapter_folder_of, worker_folder, worker_token
from mafunzo.control.workspace.services import Services
from mafunzo.entities.adapter import AdapterStatus, adapter_model
from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from mafunzo.entities.verification import Proof, ProofResult, failed_proof, last_proof, proof_of
from mafunzo.errors import NotFound

WORKERS_AT_ONCE = 4


def prove(services: Services, deployments: Sequence[Deployment], timeout_s: float) -> list[Proof]:
    """Compare each worker of some deployments, and each adapter on it, with what evaluation wrote down; return how each stands.

    One that can't be asked, or differs, has a row that says why; the others are compared all the same. timeout_s: of a request.
    """
    workers = [worker for deployment in deployments for worker in _workers(deployment)]
    with ThreadPoolExecutor(WORKERS_AT_ONCE, "proof") as threads:
        proofs = [one for each in threads.map(partial(_prove, services, timeout_s), workers) for one in each]
    if any(proof.result is ProofResult.REFUSED for proof in proofs):
        services.up()  # its supervisor takes them out of service
    return proofs


def _workers(deployment: Deployment) -> Sequence[Deployment]:
    """Return the workers of a deployment but for those that end with their last request, where there are others."""
    staying = [worker for worker in deployment.workers if worker.status is not DeploymentStatus.DRAINING]
    return staying or deployment.workers


def _prove(services: Services, timeout_s: float, worker: Deployment) -> list[Proof]:
    return [_proven(services, timeout_s, worker, name) for name in (None, *sorted(worker.adapters))]


def _proven(services: Services, timeout_s: float, worker: Deployment, adapter: str | None) -> Proof:
    obstacle = _obstacle(worker, adapter)
    if obstacle is not None:
        return obstacle
    verdict = _verdict(services, timeout_s, worker, adapter)
    if verdict.broke:
        why = f"It couldn't be asked: {verdict.broke}. Look at its log: mafunzo endpoint logs {worker.endpoint}"
        return failed_proof(worker, adapter, why)
    record = dict(verdict.record or {}) | {"checked_at": datetime.now(UTC).isoformat()}
    with suppress(NotFound):  # it was deleted meanwhile
        change = partial(_with_proof, worker=worker, adapter=adapter, record=record)
        services.records.deployments.change(worker.endpoint, worker.name, change)
    return proof_of(worker, adapter, record)


def _obstacle(worker: Deployment, adapter: str | None) -> Proof | None:
    """Return the row of what can't be asked now, None for what can."""
    if worker.status.has_failed and adapter is None:
        return last_proof(worker, adapter)
    if not is_live(worker):
        return failed_proof(worker, adapter, _is(worker))
    status = AdapterStatus.LIVE if adapter is None else worker.adapter_status(adapter)
    if status is AdapterStatus.REFUSED:
        return last_proof(worker, adapter)
    return (
        None
        if status is AdapterStatus.LIVE
        else failed_proof(worker, adapter, f"It is {status}: it can't be asked yet.")
    )


def _is(worker: Deployment) -> str:
    return f"Its worker {worker.worker} is {worker.status}: it can't be asked. {worker.supervision.reason}".strip()


def _verdict(services: Services, timeout_s: float, worker: Deployment, adapter: str | None) -> Verdict:
    headers = {"Authorization": f"Bearer {worker_token(services.home.secret(), worker)}"}
    folder, model = worker_folder(services.home, worker) / "model", None
    if adapter is not None:
        folder = adapter_folder_of(services.home, worker, worker.adapters[adapter].artifact)
        model = adapter_model(worker.endpoint, adapter)
    try:
        return verify_folder(folder, f"http://127.0.0.1:{worker.port}", headers, model, timeout_s)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
    ) as error:  # a file, or an answer, that can't be read: one row's fault
        return Verdict(broke=f"{type(error).__name__}: {error}")


def _with_proof(
    current: Deployment, worker: Deployment, adapter: str | None, record: Mapping[str, Any]
) -> Deployment | None:
    """Return a deployment with what was compared; None, and nothing is written, where it isn't the same worker any more.

    What differs goes back to the supervisor: a worker as one that is to be verified, an adapter as one that is to be loaded.
    """
    same = next((one for one in current.workers if one.number == worker.number), None)
    if same is None or same.attempt != worker.attempt or not is_live(same):
        return None
    differs = record["result"] == ProofResult.REFUSED
    if adapter is None:
        status = DeploymentStatus.VERIFYING if differs else same.status
        return current.with_worker(replace(same, status=status, verification=record))
    state = same.adapter_state(adapter)
    if state is None or state != worker.adapter_state(adapter):
        return None
    states = {name: one for name, one in same.adapter_states.items() if name != adapter or not differs}
    if not differs:
        states[adapter] = replace(state, verification=record)
    return current.with_worker(replace(same, adapter_states=states))
