"""The table of splits, and what a seed changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mafunzo.dataset.split import split


@pytest.mark.parametrize(
    "has_validation, has_test, expected",
    [
        pytest.param(False, False, {"train": (0, 80), "validation": (80, 90), "test": (90, 100)}, id="train"),
        pytest.param(False, True, {"train": (0, 80), "validation": (80, 100)}, id="train, test"),
        pytest.param(True, False, {"train": (0, 80), "test": (80, 100)}, id="train, validation"),
        pytest.param(True, True, {"train": (0, 100)}, id="all three"),
    ],
)
def test_slices_are_contiguous_and_in_order(
    has_validation: bool, has_test: bool, expected: dict[str, tuple[int, int]]
) -> None:
    shares = split(100, has_validation, has_test)
    assert {name: (share.first, share.last) for name, share in shares.items()} == expected
    assert list(shares["train"].chosen()) == list(range(*expected["train"]))


def test_the_tutorials_rows_come_out_as_in_azure() -> None:
    shares = split(10_393, has_validation=False, has_test=True)
    assert {name: len(share) for name, share in shares.items()} == {"train": 8_314, "validation": 2_079}


@given(st.integers(0, 3000), st.booleans(), st.booleans(), st.none() | st.integers(0, 9))
def test_each_row_is_in_one_split(rows: int, has_validation: bool, has_test: bool, seed: int | None) -> None:
    shares = split(rows, has_validation, has_test, seed)
    indices = [index for share in shares.values() for index in share.chosen()]
    assert sorted(indices) == list(range(rows))
    assert {name: len(share) for name, share in shares.items()} == {
        name: len(share) for name, share in split(rows, has_validation, has_test).items()
    }


def test_a_seed_draws_other_rows_each_time_the_same() -> None:
    assert split(100, False, False, 1)["test"].chosen() == split(100, False, False, 1)["test"].chosen()
    assert split(100, False, False, 1)["test"].chosen() != split(100, False, False, 2)["test"].chosen()
    assert sorted(split(20, False, False, 7)["test"].chosen()) == [4, 10]  # the same on every machine
