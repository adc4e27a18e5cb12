"""The proof that serving equals training, as people read it: a row for the model of each worker, and for each adapter on it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mafunzo.entities.endpoint import Deployment

SIGNIFICAND_BITS: Mapping[str, int] = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}


class ProofResult(StrEnum):
    """verified: it answers as in evaluation. unverified: its model wasn't tuned here, so that there is nothing to compare with.
    refused: it answers otherwise. failed: it couldn't be asked. pending: it wasn't asked yet."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    REFUSED = "refused"
    FAILED = "failed"
    PENDING = "pending"


@dataclass(frozen=True)
class Proof:
    """What a worker of a deployment answered, for its own model or for one adapter, beside what evaluation wrote down.

    why: what differs, or why nothing could be compared. checked_at: ISO 8601. stored: how the package has the weights: adapter,
    merge (an adapter was merged into them), or weights. dtype: what the worker computes in;
    reference_dtype: what evaluation did. rows: held-out conversations; exact_rows: those with equal token ids.
    tolerance, mean_tolerance: what the largest, and the mean, difference of a log-probability may be.
    greedy_positions: tokens of the answers; greedy_equal: those where the likeliest token is the same. perplexity_ratio: of
    the worker's perplexity to evaluation's, where the worker computes in a lower precision: what that costs in quality.
    None: not known, as of a package that was made before it was written down.
    """

    deployment: str
    worker: str
    adapter: str | None
    model: str
    result: ProofResult
    why: str = ""
    checked_at: str | None = None
    engine: str | None = None
    dtype: str | None = None
    reference_dtype: str | None = None
    rows: int | None = None
    exact_rows: int | None = None
    tokens: int | None = None
    largest_difference: float | None = None
    mean_difference: float | None = None
    tolerance: float | None = None
    mean_tolerance: float | None = None
    greedy_positions: int | None = None
    greedy_equal: int | None = None
    perplexity_ratio: float | None = None
    stored: str | None = None

    @property
    def has_passed(self) -> bool:
        """Whether nothing speaks against it: it is verified, or there is nothing that it could be held against."""
        return self.result in (ProofResult.VERIFIED, ProofResult.UNVERIFIED)


_COMPARED = (
    "engine",
    "rows",
    "exact_rows",
    "tokens",
    "largest_difference",
    "mean_difference",
    "tolerance",
    "mean_tolerance",
    "greedy_positions",
    "greedy_equal",
    "perplexity_ratio",
    "stored",
    "checked_at",
)


def is_lower_precision(dtype: str | None, than: str | None) -> bool:
    """Return whether numbers of a format have fewer significant bits than those of another; both are named as torch does."""
    bits, others = SIGNIFICAND_BITS.get(dtype or ""), SIGNIFICAND_BITS.get(than or "")
    return bits is not None and others is not None and bits < others


def proof_of(worker: Deployment, adapter: str | None, record: Mapping[str, Any]) -> Proof:
    """Return the row of what a verification wrote down about a worker, a deployment with that one alone."""
    result = ProofResult(record["result"])
    compared = {name: record.get(name) for name in _COMPARED}
    compared |= {"dtype": record.get("worker_dtype"), "reference_dtype": record.get("dtype")}
    why = " ".join(map(str, record.get("faults") or ())) or str(record.get("reason", ""))
    return _proof(worker, adapter, result, why, **compared)


def failed_proof(worker: Deployment, adapter: str | None, why: str) -> Proof:
    """Return the row of a worker that couldn't be asked."""
    return _proof(worker, adapter, ProofResult.FAILED, why)


def last_proofs(deployments: Iterable[Deployment]) -> list[Proof]:
    """Return how each worker, and each adapter on it, stood when it was compared last."""
    workers = (worker for deployment in deployments for worker in deployment.workers)
    return [last_proof(worker, name) for worker in workers for name in (None, *sorted(worker.adapters))]


def last_proof(worker: Deployment, adapter: str | None) -> Proof:
    """Return how a worker, or an adapter on it, stood when it was compared last; what it failed with since comes first."""
    status: StrEnum = worker.status if adapter is None else worker.adapter_status(adapter)
    record, error = worker.verification, worker.error if worker.status.has_failed else None
    if adapter is not None:
        state = worker.adapter_state(adapter)
        record, error = (None, None) if state is None else (state.verification, state.error)
    if error and (record or {}).get("result") != ProofResult.REFUSED:
        return failed_proof(worker, adapter, error_words(error))
    if record:
        return proof_of(worker, adapter, record)
    return _proof(worker, adapter, ProofResult.PENDING, f"It is {status}.")


def error_words(error: Mapping[str, Any]) -> str:
    """Return a stored error as a text, with all its faults."""
    return " ".join([str(error.get("message", "")), *map(str, error.get("faults") or ())]).strip()


def _proof(worker: Deployment, adapter: str | None, result: ProofResult, why: str, **compared: Any) -> Proof:
    model = worker.model if adapter is None else worker.adapters[adapter].model
    return Proof(worker.name, worker.worker, adapter, model, result, why, **compared)
