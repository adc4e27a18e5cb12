"""The rows of the proof that serving equals training, from what a deployment's record keeps."""

from dataclasses import replace
from typing import Any

import pytest

from mafunzo.entities.adapter import Adapter, AdapterState, AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from mafunzo.entities.verification import Proof, ProofResult, is_lower_precision, last_proofs, proof_of

VERIFIED: dict[str, Any] = {
    "result": "verified",
    "stored": "merge",
    "faults": [],
    "engine": "torch",
    "worker_dtype": "bfloat16",
    "dtype": "float32",
    "rows": 4,
    "exact_rows": 4,
    "tokens": 90,
    "tolerance": 1.5,
    "mean_tolerance": 0.15,
    "largest_difference": 0.5,
    "mean_difference": 0.04,
    "greedy_positions": 30,
    "greedy_equal": 29,
    "perplexity_ratio": 1.002,
    "checked_at": "2026-01-02T10:00:00+00:00",
}
REFUSED = {"result": "refused", "faults": ["BOS: it is left out.", "EOS: it is 3."], "rows": 4}
ERROR = {"message": "It was too slow.", "faults": ["a: 1"]}
BLUE = Deployment("chat", "blue", "m:1", "sha256:0", DeploymentStatus.HEALTHY, port=9, attempt=2)


def with_adapters(**states: AdapterState) -> Deployment:
    adapters = {name: Adapter(f"{name}:1", "sha256:1") for name in states}
    return replace(BLUE, adapters=adapters, adapter_states=states)


@pytest.mark.parametrize(
    ("dtype", "than", "expected"),
    [
        ("bfloat16", "float32", True),
        ("float16", "float32", True),
        ("bfloat16", "float16", True),
        ("float32", "float32", False),
        ("float32", "bfloat16", False),
        ("int8", "float32", False),
        (None, "float32", False),
    ],
)
def test_precision_is_the_number_of_significant_bits(dtype: str | None, than: str, expected: bool) -> None:
    assert is_lower_precision(dtype, than) is expected


def test_a_row_has_all_that_was_compared() -> None:
    expected = Proof(
        "blue",
        "blue",
        None,
        "m:1",
        ProofResult.VERIFIED,
        "",
        "2026-01-02T10:00:00+00:00",
        "torch",
        "bfloat16",
        "float32",
        4,
        4,
        90,
        0.5,
        0.04,
        1.5,
        0.15,
        30,
        29,
        1.002,
        "merge",
    )
    assert proof_of(BLUE, None, VERIFIED) == expected
    assert expected.has_passed


def test_what_an_earlier_version_did_not_write_down_is_not_known() -> None:
    row = proof_of(BLUE, None, {"result": "verified", "rows": 4, "dtype": "float32"})
    assert (row.reference_dtype, row.dtype, row.exact_rows, row.greedy_equal) == ("float32", None, None, None)


def test_a_row_says_why_nothing_was_compared_or_all_that_differs() -> None:
    unverified = proof_of(BLUE, None, {"result": "unverified", "reason": "It wasn't tuned here."})
    assert (unverified.why, unverified.has_passed) == ("It wasn't tuned here.", True)
    refused = proof_of(BLUE, None, REFUSED)
    assert (refused.why, refused.has_passed) == ("BOS: it is left out. EOS: it is 3.", False)


def test_the_last_proofs_are_of_each_worker_and_each_adapter_on_it() -> None:
    live = AdapterState("sha256:1", 2, AdapterStatus.LIVE, verification=VERIFIED)
    before = AdapterState("sha256:1", 1, AdapterStatus.LIVE, verification=VERIFIED)
    blue = replace(with_adapters(red=live, old=before), verification=VERIFIED)
    blue = blue.with_worker(replace(blue, number=1, status=DeploymentStatus.STARTING, verification=None))
    rows = [(one.worker, one.adapter, one.model, one.result) for one in last_proofs([blue])]
    assert rows == [
        ("blue", None, "m:1", ProofResult.VERIFIED),
        ("blue", "old", "old:1", ProofResult.PENDING),
        ("blue", "red", "red:1", ProofResult.VERIFIED),
        ("blue#2", None, "m:1", ProofResult.PENDING),
        ("blue#2", "old", "old:1", ProofResult.PENDING),
        ("blue#2", "red", "red:1", ProofResult.VERIFIED),
    ]
    assert last_proofs([blue])[3].why == "It is starting."


@pytest.mark.parametrize(
    ("status", "record", "result", "why"),
    [
        pytest.param("refused", REFUSED, ProofResult.REFUSED, "BOS: it is left out. EOS: it is 3.", id="refused"),
        pytest.param("failed", VERIFIED, ProofResult.FAILED, "It was too slow. a: 1", id="failed since"),
        pytest.param("failed", None, ProofResult.FAILED, "It was too slow. a: 1", id="failed before"),
        pytest.param("waiting", VERIFIED, ProofResult.VERIFIED, "", id="starts again"),
    ],
)
def test_what_failed_since_comes_before_an_older_proof(
    status: str, record: dict[str, Any] | None, result: ProofResult, why: str
) -> None:
    [row] = last_proofs([replace(BLUE, status=DeploymentStatus(status), verification=record, error=ERROR)])
    assert (row.result, row.why) == (result, why)


def test_an_adapter_that_was_refused_says_why() -> None:
    refused = AdapterState("sha256:1", 2, AdapterStatus.REFUSED, verification=REFUSED, error=ERROR)
    broken = AdapterState("sha256:1", 2, AdapterStatus.REFUSED, error=ERROR)
    _, first, second = last_proofs([with_adapters(a=refused, b=broken)])
    assert (first.result, first.rows) == (ProofResult.REFUSED, 4)
    assert (second.result, second.why) == (ProofResult.FAILED, "It was too slow. a: 1")
