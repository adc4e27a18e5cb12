"""The proof that serving equals training as a table, a row for the model of each worker and for each adapter on it."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from mafunzo.entities.verification import Proof, is_lower_precision
from mafunzo.entrypoints.terminal.output import print_table
from mafunzo.tracking.printable import printable

COLUMNS = (
    "worker",
    "adapter",
    "result",
    "weights",
    "engine",
    "dtype",
    "rows",
    "ids",
    "logprob diff",
    "mean",
    "allowed",
    "greedy",
    "quality",
)
NOT_KNOWN = "not known"
WEIGHTS = {"adapter": "adapter", "merge": "merged", "weights": "whole"}


def print_proofs(proofs: Iterable[Proof], has_times: bool = False) -> None:
    """Print a table, on request with the time of each row, and below it why a row says what it says."""
    proofs = list(proofs)
    columns = (*COLUMNS, "checked") if has_times else COLUMNS
    print_table(columns, (_row(proof)[: len(columns)] for proof in proofs), "No worker was compared.")
    for proof in proofs:
        if proof.why:
            print(printable(f"{_name(proof)}: {proof.why}"))


def proof_facts(proof: Proof) -> dict[str, Any]:
    """Return a row for `--json`."""
    return asdict(proof) | {"has_passed": proof.has_passed}


def quality_words(proof: Proof) -> str:
    """Return what a lower precision than evaluation's costs, or an empty text where the precision isn't lower."""
    if not is_lower_precision(proof.dtype, proof.reference_dtype):
        return ""
    cost = NOT_KNOWN if proof.perplexity_ratio is None else f"{proof.perplexity_ratio - 1:+.2%}"
    return f"perplexity {cost} against {proof.reference_dtype}"


def _name(proof: Proof) -> str:
    return proof.worker if proof.adapter is None else f"{proof.worker}, adapter {proof.adapter}"


def _row(proof: Proof) -> tuple[Any, ...]:
    tolerances = (proof.tolerance, proof.mean_tolerance)
    return (
        proof.worker,
        proof.adapter or "none",
        proof.result,
        WEIGHTS.get(proof.stored or ""),
        proof.engine or (NOT_KNOWN if proof.rows else ""),
        proof.dtype or (NOT_KNOWN if proof.rows else ""),
        proof.rows,
        _share(proof, proof.exact_rows, proof.rows),
        _number(proof.largest_difference),
        _number(proof.mean_difference),
        " / ".join(f"{bound:g}" for bound in tolerances if bound is not None),
        _share(proof, proof.greedy_equal, proof.greedy_positions),
        quality_words(proof),
        None if proof.checked_at is None else datetime.fromisoformat(proof.checked_at),
    )


def _share(proof: Proof, part: int | None, whole: int | None) -> str:
    """Return a part of what was compared; a package or record of an earlier version doesn't tell each."""
    if proof.rows is None:
        return ""
    return NOT_KNOWN if part is None or whole is None else f"{part} of {whole}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
