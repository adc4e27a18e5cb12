"""Tests of `mafunzo.compute.components.predictions`: no row is lost by a kill, and none is there twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mafunzo.compute.components.predictions import Predictions
from mafunzo.errors import Conflict


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def line(index: int) -> dict[str, Any]:
    return {"index": index, "row": index + 1, "answer": f"ä{index}"}


def written(output: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_lines_come_in_the_order_of_the_data_and_without_what_was_for_going_on(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path / "out", (), "k", 5.0)
    for index in (2, 0, 3, 1):
        predictions.add(line(index))
    predictions.put_together("predictions.jsonl", {"rows": 4})
    assert [row["row"] for row in written(tmp_path / "out")] == [1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions.jsonl", "report.json"]
    assert "index" not in written(tmp_path / "out")[0]


def test_what_is_in_a_segment_survives_a_kill_and_is_not_done_again(tmp_path: Path) -> None:
    clock = Clock()
    killed = Predictions(tmp_path / "out", (), "k", 5.0, clock)
    killed.add(line(1))
    clock.now_s = 5.0
    killed.add(line(0))  # writes both
    killed.add(line(2))  # lost with the process
    (tmp_path / "out" / ".segment").mkdir()  # which was writing it
    second = Predictions(tmp_path / "out", (), "k", 5.0, clock)
    assert second.done == {0, 1}
    second.add(line(3))
    second.add(line(2))
    second.put_together("predictions.jsonl", {})
    assert [row["answer"] for row in written(tmp_path / "out")] == ["ä0", "ä1", "ä2", "ä3"]
    assert not (tmp_path / "out" / ".segment").exists()


def test_earlier_attempts_count_and_what_was_carried_over_counts_once(tmp_path: Path) -> None:
    first = Predictions(tmp_path / "1", (), "k", 5.0)
    first.add(line(0))
    first.save()
    shutil.copytree(tmp_path / "1", tmp_path / "0")
    second = Predictions(tmp_path / "2", (tmp_path / "1", tmp_path / "0"), "k", 5.0)
    assert second.done == {0}
    second.add(line(1))
    second.save()
    assert (tmp_path / "2" / "checkpoint-2").is_dir()
    third = Predictions(tmp_path / "3", (tmp_path / "2", tmp_path / "1", tmp_path / "0"), "k", 5.0)
    third.put_together("predictions.jsonl", {})
    assert [row["row"] for row in written(tmp_path / "3")] == [1, 2]


def test_segments_of_another_request_count_for_nothing(tmp_path: Path) -> None:
    other = Predictions(tmp_path / "1", (), "other", 5.0)
    other.add(line(0))
    other.save()
    assert Predictions(tmp_path / "2", (tmp_path / "1",), "k", 5.0).done == set()
    with pytest.raises(Conflict, match="another request: other rows, another model or other parameters"):
        Predictions(tmp_path / "1", (), "k", 5.0)


def test_a_kill_while_segments_are_dropped_leaves_whole_predictions(tmp_path: Path) -> None:
    predictions = Predictions(tmp_path / "out", (), "k", 5.0)
    predictions.add(line(0))
    predictions.save()
    segment = shutil.copytree(tmp_path / "out" / "checkpoint-1", tmp_path / "kept")
    predictions.add(line(1))
    predictions.put_together("predictions.jsonl", {"rows": 2})
    shutil.copytree(segment, tmp_path / "out" / "checkpoint-1")
    again = Predictions(tmp_path / "out", (), "k", 5.0)
    assert again.is_whole
    again.drop_segments()
    assert [row["row"] for row in written(tmp_path / "out")] == [1, 2]
    with pytest.raises(Conflict):
        Predictions(tmp_path / "out", (), "other", 5.0)


def test_pauses_grow_with_the_time_that_the_run_has_taken(tmp_path: Path) -> None:
    clock = Clock()
    predictions = Predictions(tmp_path / "out", (), "k", 5.0, clock)
    for index in range(10_000):
        clock.now_s += 1
        predictions.add(line(index))
    assert 100 < len(list((tmp_path / "out").glob("checkpoint-*"))) < 300
