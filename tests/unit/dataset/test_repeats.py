"""What repeats between the files of a job, said before it starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.dataset.check import Report, check_source
from mafunzo.dataset.files import open_source
from mafunzo.dataset.repeats import SplitsReport, by_split


def talk(number: int, answer: str = "It is.") -> dict[str, Any]:
    return {"prompt": f"What is {number}?", "completion": answer}


def report(folder: Path, name: str, rows: list[Any]) -> Report:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return check_source(open_source(path))


def splits(folder: Path, seed: int | None = None, **files: list[Any]) -> SplitsReport:
    return by_split({name: report(folder, name, rows) for name, rows in files.items()}, seed)


def test_equal_rows_and_equal_prompts_are_counted(tmp_path: Path) -> None:
    rows = [talk(1), talk(1, " It\nis."), talk(1, "No."), talk(1, "No."), "{", talk(2)]
    counts = report(tmp_path, "train", rows)
    assert (counts.equal_rows, counts.equal_prompts) == (2, 1)
    assert [bool(row) for row in counts.fingerprints] == [True, True, True, True, False, True]


@pytest.mark.parametrize(
    "files, left_out",
    [
        pytest.param({"train": [talk(i) for i in range(10)]}, {}, id="all rows differ"),
        pytest.param({"train": [talk(i % 5) for i in range(10)]}, {"validation": 1, "test": 1}, id="one file, cut into three"),
        pytest.param({"train": [talk(i) for i in range(10)], "validation": [talk(0), talk(1)], "test": [talk(1), talk(2)]}, {"test": 2, "validation": 1}, id="three files, the test rows first"),
        pytest.param({"train": [talk(i) for i in range(10)], "test": [talk(0), talk(9)]}, {"test": 1}, id="two files, and one of both is a validation row"),
        pytest.param({"train": [*(talk(i) for i in range(9)), "{"], "validation": [talk(0), "{"], "test": ["{"]}, {"validation": 1}, id="bad rows repeat nothing"),
        pytest.param({"test": [talk(0)] * 3}, {}, id="no training rows"),
    ],
)  # fmt: skip
def test_training_rows_that_are_held_out_too_are_counted(
    files: dict[str, list[Any]], left_out: dict[str, int], tmp_path: Path
) -> None:
    assert splits(tmp_path, **files).left_out() == left_out


def test_a_seed_draws_the_rows_as_the_job_does(tmp_path: Path) -> None:
    rows = [talk(i % 20) for i in range(40)]
    assert {seed: sum(splits(tmp_path, seed, train=rows).left_out().values()) for seed in (None, 1)} == {None: 8, 1: 4}


def test_what_a_job_does_with_repeats_is_said_in_sentences(tmp_path: Path) -> None:
    assert list(splits(tmp_path, train=[talk(i % 5) for i in range(10)]).sentences()) == [
        "5 of the 10 rows equal an earlier one; rows that repeat within a split are kept",
        "2 of the 8 training rows are left out of training, since they stand elsewhere too: 1 in the validation rows and 1 "
        "in the test rows, where a job cuts validation and test rows from the training file",
        "6 of the training rows remain, and a job fails with fewer than 10",
    ]
    rows = {"train": [talk(1), talk(2), talk(2, "No.")], "validation": [talk(1)], "test": [talk(9), talk(9)]}
    assert list(splits(tmp_path, **rows).sentences()) == [
        "1 of the 3 train rows have the prompt of an earlier one with another answer; they are kept",
        "1 of the 2 test rows equal an earlier one; rows that repeat within a split are kept",
        "1 of the 3 training rows are left out of training, since they stand elsewhere too: 1 in the validation rows",
        "2 of the training rows remain, and a job fails with fewer than 10",
    ]


def test_held_out_rows_alone_need_no_training_rows(tmp_path: Path) -> None:
    assert splits(tmp_path, test=[talk(0)]).fault() == ""
    assert splits(tmp_path, train=[talk(i) for i in range(9)], validation=[talk(9)], test=[talk(8)]).fault() == (
        "train has 9 rows, of which 9 are for training, expected 10 or more. Add rows, or pass validation and test rows as files "
        "of their own."
    )


def test_a_jobs_notes_say_all_that_becomes_of_rows(tmp_path: Path) -> None:
    rows = [talk(1) | {"topic": "x"}, talk(1), "{"]
    assert splits(tmp_path, train=rows, validation=[talk(3)], test=[talk(4)]).notes() == [
        "1 of the 3 train rows can't be used and are left out: isn't JSON: Expecting property name enclosed in double quotes",
        "1 of the 3 train rows: has a column 'topic', which isn't read",
        "1 of the 3 train rows equal an earlier one; rows that repeat within a split are kept",
    ]


def test_a_file_of_many_columns_has_few_notes(tmp_path: Path) -> None:
    notes = splits(tmp_path, train=[talk(1) | {f"column {number}": "x" for number in range(13)}]).notes()
    assert len(notes) == 11
    assert notes[-1] == "3 further notes on the train rows: mafunzo data check FILE"
