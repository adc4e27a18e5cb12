"""Tests of `mafunzo.entities.blob`: preconditions of reading and writing."""

from datetime import UTC, datetime, timedelta

import pytest

from mafunzo.entities.blob import Blob, Condition
from mafunzo.errors import BlobExists, MafunzoError, OverwriteForbidden, PreconditionFailed

NOON = datetime(2026, 1, 1, 12, 0, 0, 500, tzinfo=UTC)
THERE = Blob("c", "a/b.txt", "sha256:0", 1, '"7"', modified_at=NOON)
ANY, SEVEN, EIGHT = frozenset({"*"}), frozenset({"7"}), frozenset({"8"})


@pytest.mark.parametrize(
    ("condition", "there", "kind"),
    [
        pytest.param(Condition(), THERE, None, id="none"),
        pytest.param(Condition(none_match=ANY), None, None, id="a new blob"),
        pytest.param(Condition(none_match=ANY), THERE, BlobExists, id="a new blob where one is"),
        pytest.param(Condition(may_overwrite=False), THERE, OverwriteForbidden, id="no right to replace"),
        pytest.param(Condition(match=SEVEN), THERE, None, id="the one that is meant"),
        pytest.param(Condition(match=EIGHT), THERE, PreconditionFailed, id="an earlier one is meant"),
        pytest.param(Condition(match=ANY), None, PreconditionFailed, id="any, and there is none"),
        pytest.param(Condition(unmodified_since=NOON), THERE, None, id="not changed since"),
        pytest.param(
            Condition(unmodified_since=NOON - timedelta(minutes=1)), THERE, PreconditionFailed, id="changed since"
        ),
        pytest.param(Condition(modified_since=NOON), THERE, PreconditionFailed, id="only if it changed"),
    ],
)
def test_a_write_has_to_meet_its_conditions(
    condition: Condition, there: Blob | None, kind: type[MafunzoError] | None
) -> None:
    if kind is None:
        condition.check_write(there)
    else:
        with pytest.raises(kind):
            condition.check_write(there)


def test_a_read_is_of_the_blob_that_is_meant() -> None:
    Condition(match=SEVEN).check_read(THERE)
    with pytest.raises(PreconditionFailed):
        Condition(match=EIGHT).check_read(THERE)


def test_a_blobs_file_is_called_as_its_last_part() -> None:
    assert THERE.file_name == "b.txt"
