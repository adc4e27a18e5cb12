"""Tests of `mafunzo.entrypoints.cli.demo_size`: which size of the demo a machine gets."""

from pathlib import Path

import pytest

from mafunzo.entities.speed import Speed
from mafunzo.entrypoints.cli.demo_size import BUDGET_S, SIZES, Choice, choose, read_choice, write_choice

PARAMETERS = 135_000_000
PLENTY = 64 * 10**9


def name_for(flops: float, free_bytes: int = PLENTY) -> str:
    return choose(Speed(flops, "float32", free_bytes), "tiny", PARAMETERS, tuple(SIZES.values())).size


def test_a_faster_machine_gets_a_larger_size() -> None:
    names = [name_for(gigaflops * 1e9) for gigaflops in (1, 40, 80, 160, 320, 640, 5000)]
    order = list(SIZES)[::-1]
    assert names == sorted(names, key=order.index)
    assert (names[0], names[-1]) == ("small", "large") and "medium" in names


def test_a_machine_with_little_free_memory_gets_the_small_size() -> None:
    assert name_for(1e13, int(SIZES["large"].needed_gb * 1e9)) == "large"
    assert name_for(1e13, int(SIZES["large"].needed_gb * 1e9) - 1) == "small"


def test_every_size_fits_into_four_gigabytes() -> None:
    assert all(size.needed_gb <= 4 for size in SIZES.values())


def test_where_none_fits_the_smallest_is_chosen_and_is_not_quick() -> None:
    slow = choose(Speed(1e9, "float32", PLENTY), "tiny", PARAMETERS, tuple(SIZES.values()))
    assert slow.size == "small" and slow.seconds > BUDGET_S and not slow.is_quick


def test_a_size_costs_more_with_more_rows_and_a_larger_model() -> None:
    seconds = [size.seconds(1e11, PARAMETERS) for size in SIZES.values()]
    assert seconds == sorted(seconds, reverse=True)
    assert SIZES["small"].seconds(1e11, 2 * PARAMETERS) > seconds[-1]


CHOICE = Choice("tiny", "medium", 500.5, Speed(1.5e11, "float32", 10**10))


def test_a_choice_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_choice(tmp_path / "demo.json", CHOICE)
    assert read_choice(tmp_path / "demo.json", "tiny") == CHOICE
    assert read_choice(tmp_path / "demo.json", "another") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "tiny", "size": "huge", "seconds": 1, "speed": {}}'])
def test_what_is_no_choice_counts_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(text)
    assert read_choice(tmp_path / "demo.json", "tiny") is None
    assert read_choice(tmp_path / "none.json", "tiny") is None
