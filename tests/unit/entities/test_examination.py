"""What an examination found, as a page and as JSON."""

import pytest

from mafunzo.entities.examination import Check, Examination

CHECKS = (
    Check("losses, 32 bits", "at most 0.00010 from the CPU's in 5 steps", "0.002", True),
    Check("speed against TRL's best", "0.80 times its 1,000 tokens/s", "1 at least", False),
    Check("memory", "", "the time of 300 s was over", None),
)
EXAMINATION = Examination("NVIDIA H100", {"mafunzo": "0.2.0", "torch": "2.13.0"}, CHECKS)


def test_the_report_has_a_row_for_each_check_with_its_verdict() -> None:
    page = EXAMINATION.report()
    assert page.startswith("# NVIDIA H100\n\nmafunzo 0.2.0, torch 2.13.0\n")
    assert [line.split("|")[4].strip() for line in page.splitlines()[-3:]] == ["passed", "FAILED", "not measured"]


def test_what_failed_is_told_with_its_bound_and_what_was_not_measured_is_no_failure() -> None:
    assert EXAMINATION.faults == [
        "speed against TRL's best: 0.80 times its 1,000 tokens/s, the bound is 1 at least",
    ]


def test_checks_are_read_as_they_were_written() -> None:
    bodies = EXAMINATION.as_dict()["checks"]
    assert tuple(map(Check.from_dict, bodies)) == CHECKS
    with pytest.raises(TypeError, match="is_passed is 'yes'"):
        Check.from_dict({**bodies[0], "is_passed": "yes"})
