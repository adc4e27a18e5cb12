"""The limits are settings, each documented with its default."""

from dataclasses import fields
from pathlib import Path

import pytest

from mafunzo.entrypoints.http.limits import Limits, limits_from_texts, variable_of
from mafunzo.errors import InvalidParameter

REFERENCE = Path(__file__).parents[4] / "docs" / "reference" / "limits.md"


def test_without_variables_every_limit_has_its_default() -> None:
    assert limits_from_texts({}) == Limits()


def test_a_variable_sets_a_limit() -> None:
    limits = limits_from_texts({"MAFUNZO_LIMIT_UPLOAD_BYTES": "1048576", "MAFUNZO_LIMIT_BODY_S": "2.5"})
    assert limits == Limits(upload_bytes=2**20, body_s=2.5)


@pytest.mark.parametrize("text", ["0", "-1", "", "many", "1e3", "5 MB", "9" * 16])
def test_what_is_no_number_above_zero_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="MAFUNZO_LIMIT_BODY_S is") as caught:
        limits_from_texts({"MAFUNZO_LIMIT_BODY_S": text})
    assert caught.value.faults == (f"MAFUNZO_LIMIT_BODY_S is '{text}', expected a number above 0.",)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as caught:
        limits_from_texts({"MAFUNZO_LIMIT_UPLOADS": "1", "MAFUNZO_LIMIT_HEADERS": "1.5"})
    unknown, fraction = caught.value.faults
    assert unknown.startswith("MAFUNZO_LIMIT_UPLOADS is not a limit. There are: MAFUNZO_LIMIT_HEAD_BYTES, ")
    assert fraction == "MAFUNZO_LIMIT_HEADERS is '1.5', expected a whole number above 0."


def test_the_reference_has_every_limit_with_its_default() -> None:
    rows = [line.split("|") for line in REFERENCE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    documented = {row[1].strip().strip("`"): row[2].strip() for row in rows}
    assert documented == {
        variable_of(field.name): f"{field.default:g}" if field.type is float else str(field.default)
        for field in fields(Limits)
    }
