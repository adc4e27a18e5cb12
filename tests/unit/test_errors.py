"""Tests of `mafunzo.errors`."""

import pytest

from mafunzo import errors


def test_codes_are_unique_and_every_family_has_its_exit_code():
    classes = list(errors.family())
    assert len({cls.code for cls in classes}) == len(classes)
    expected = {errors.UsageError: 2, errors.RefusedError: 3, errors.FailedError: 1}
    for root, exit_code in expected.items():
        assert {cls.exit_code for cls in errors.family(root)} == {exit_code}


@pytest.mark.parametrize("cls", list(errors.family()), ids=lambda cls: cls.code)
def test_an_error_survives_the_way_between_processes(cls):
    back = errors.from_code(cls.code, "what, where, what to do", ["one", "two"])
    assert type(back) is cls
    assert str(back) == "what, where, what to do\n  - one\n  - two"


def test_an_unknown_code_is_a_failure():
    assert type(errors.from_code("of a later version", "text")) is errors.FailedError
