"""Rows are counted as they pass, and the report says what became of each."""

from pathlib import Path

import pytest

from mafunzo.compute.components.data_report import Tally, as_json, draw_lengths, lengths, metrics, summary
from mafunzo.dataset.check import BadRow, Row
from mafunzo.entities.conversation import Conversation, Message

TALK = Conversation((Message("user", "Hi"), Message("assistant", "Hello!")))
GOOD = Row("a.jsonl", 2, TALK, "messages", ("has an empty system message",))


def tally() -> Tally:
    counts = Tally(source="a.jsonl", selection="all")
    assert list(counts.good_rows([BadRow("a.jsonl", 1, "no messages"), GOOD])) == [GOOD]
    counts.rows_kept, counts.tokens, counts.assistant_tokens, counts.truncated_rows = 1, 10, 4, 1
    counts.full_lengths.extend([3, 12])
    return counts


def test_rows_are_counted_with_their_formats_notes_and_faults() -> None:
    counts = tally()
    assert (counts.rows_read, counts.bad) == (2, [BadRow("a.jsonl", 1, "no messages")])
    assert counts.formats == {"messages": 1} and counts.notes == {"has an empty system message": 1}


def test_rows_that_are_left_out_stand_among_the_bad_ones_in_order() -> None:
    counts = tally()
    counts.left_out.append(BadRow("a.jsonl", 0, "cut at 3 tokens"))
    report = as_json({"train": counts}, {"max_seq_length": 8})
    part = report["splits"]["train"]
    assert [row["row"] for row in part["dropped"]] == [0, 1] and part["bad_rows"] == 1
    assert part["dropped"][1] == {"file": "a.jsonl", "row": 1, "reason": "no messages"}
    assert (report["format"], report["max_seq_length"]) == ("messages", 8)


def test_the_summary_counts_equal_reasons_together() -> None:
    counts = tally()
    counts.left_out += [
        BadRow("a.jsonl", row, f"stands in the test rows (b.jsonl, row {row}) as well, so it is kept out of training")
        for row in (5, 6)
    ]
    lines = [" ".join(line.split()) for line in summary(as_json({"train": counts}, {"max_seq_length": None}))]
    assert lines[0] == "train 1 of 2 rows, 10 tokens, 40% by the assistant, 1 rows cut at no length"
    assert "2 left out: stands in the test rows as well, so it is kept out of training" in lines
    assert "1 kept; the row has an empty system message" in lines


def test_the_counts_of_reasons_add_up_to_the_rows_that_are_left_out() -> None:
    counts = tally()
    counts.left_out += [BadRow("a.jsonl", row, f"cut at 8 tokens (token {row} of 90)") for row in range(30)]
    counts.bad += [BadRow("a.jsonl", row, f"has the role '{row % 7}'") for row in range(30, 100)]
    lines = [line.split() for line in summary(as_json({"train": counts}, {"max_seq_length": 8})) if "left out" in line]
    assert lines[0] == ["30", "left", "out:", "cut", "at", "8", "tokens"]
    assert len(lines) == 6
    assert sum(int(line[0]) for line in lines) == len(counts.dropped) == 101


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([], {}, id="none"),
        pytest.param([7], {"min": 7, "p10": 7, "median": 7, "mean": 7.0, "p90": 7, "max": 7}, id="one"),
        pytest.param([1, 3], {"min": 1, "p10": 1.2, "median": 2.0, "mean": 2.0, "p90": 2.8, "max": 3}, id="two"),
    ],
)
def test_lengths_have_statistics_however_few_they_are(values: list[int], expected: dict[str, float]) -> None:
    assert lengths(values) == expected


def test_the_numbers_worth_comparing_are_metrics_by_split() -> None:
    expected = {"train_rows_kept": 1.0, "train_tokens": 10.0, "train_assistant_tokens": 4.0}
    assert metrics({"train": tally()}) == expected


@pytest.mark.parametrize("max_seq_length", [None, 5, 50])
@pytest.mark.parametrize("values", [[], [3], [*range(1, 40), 4000]], ids=["no rows", "one row", "a long tail"])
def test_lengths_are_drawn_as_a_picture(values: list[int], max_seq_length: int | None, tmp_path: Path) -> None:
    draw_lengths(values, "train", max_seq_length, tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
