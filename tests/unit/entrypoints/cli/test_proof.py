"""How the table of proofs reads."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mafunzo.entities.verification import Proof, ProofResult
from mafunzo.entrypoints.cli.proof import COLUMNS, print_proofs, proof_facts, quality_words
from mafunzo.entrypoints.terminal.output import moment_text

PROOF = Proof(
    "blue",
    "blue#2",
    "red",
    "red:1",
    ProofResult.VERIFIED,
    engine="torch",
    dtype="bfloat16",
    reference_dtype="float32",
    rows=4,
    exact_rows=4,
    tokens=90,
    largest_difference=0.5123,
    mean_difference=0.041,
    tolerance=1.5,
    mean_tolerance=0.15,
    greedy_positions=30,
    greedy_equal=29,
    perplexity_ratio=1.0021,
    stored="adapter",
)
KNOWN = "blue#2 red verified adapter torch bfloat16 4 4 of 4 0.51 0.041 1.5 / 0.15 29 of 30 perplexity +0.21% against float32"


def printed(proof: Proof, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_proofs([proof])
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        pytest.param({}, KNOWN, id="all"),
        pytest.param(
            {"greedy_positions": None, "greedy_equal": None, "dtype": "float32", "perplexity_ratio": None},
            "blue#2 red verified adapter torch float32 4 4 of 4 0.51 0.041 1.5 / 0.15 not known",
            id="a package from before, in the precision of its evaluation",
        ),
        pytest.param(
            {"perplexity_ratio": None},
            "blue#2 red verified adapter torch bfloat16 4 4 of 4 0.51 0.041 1.5 / 0.15 29 of 30 perplexity not known against float32",
            id="a lower precision whose cost isn't known",
        ),
    ],
)
def test_a_row_reads_so(changes: dict[str, None], row: str, capsys: pytest.CaptureFixture[str]) -> None:
    header, told = printed(replace(PROOF, **changes), capsys)
    assert header == " ".join(COLUMNS)
    assert told == row


def test_what_was_not_compared_has_no_numbers_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    failed = Proof("blue", "blue", None, "m:1", ProofResult.FAILED, "Its worker is idle.")
    _, row, why = printed(failed, capsys)
    assert (row, why) == ("blue none failed", "blue: Its worker is idle.")


def test_a_row_tells_its_time_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    checked = datetime(2026, 1, 2, 10, tzinfo=UTC)
    print_proofs([replace(PROOF, checked_at=checked.isoformat())], has_times=True)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "checked"
    assert row.endswith(moment_text(checked))


def test_a_precision_that_is_not_lower_costs_nothing() -> None:
    assert quality_words(replace(PROOF, dtype="float32")) == ""
    assert quality_words(replace(PROOF, perplexity_ratio=0.999)) == "perplexity -0.10% against float32"


def test_json_has_what_the_table_has_and_whether_it_passed() -> None:
    facts = proof_facts(PROOF)
    assert (facts["worker"], facts["adapter"], facts["greedy_equal"], facts["has_passed"]) == (
        "blue#2",
        "red",
        29,
        True,
    )
