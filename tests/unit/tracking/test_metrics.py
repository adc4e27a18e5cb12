import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.tracking.metrics import MetricLog, metrics_of, read_metrics


def test_metrics_are_one_object_a_line_that_is_there_at_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    log = MetricLog(file)
    log.log(1, {"loss": 2.5})
    log.log(2, {"loss": float("nan"), "grad_norm": float("inf")})
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [{name: line[name] for name in line if name != "time"} for line in lines] == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": None, "grad_norm": None},
    ]
    assert lines[0]["time"] <= lines[1]["time"]


def test_a_later_attempt_of_the_writer_appends(tmp_path: Path) -> None:
    for step in (1, 2):
        MetricLog(tmp_path / "metrics.jsonl").log(step, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_component_run_by_hand_writes_none() -> None:
    MetricLog(None).log(1, {"loss": 1.0})


@pytest.mark.parametrize(
    ("line", "metrics"),
    [
        pytest.param(b'{"time": 1, "step": 2, "loss": 3.5}\n', {"time": 1, "step": 2, "loss": 3.5}, id="as we write"),
        pytest.param(b'{"loss": 1}\n', {"time": 0, "step": 0, "loss": 1}, id="without time and step"),
        pytest.param(b'{"step": 1, "time": 1, "x": NaN}\n', {"time": 1, "step": 1, "x": None}, id="no number"),
        pytest.param(b'{"step": 1, "time": 1, "x": "a"}\n', {"time": 1, "step": 1, "x": None}, id="a text"),
        pytest.param(
            b'{"time": 1, "step": 1, "x": 1' + b"0" * 400 + b"}\n", {"time": 1, "step": 1, "x": None}, id="huge"
        ),
        pytest.param(b'{"step": 1', None, id="unfinished"),
        pytest.param(b'{"step": 1}', None, id="without its end"),
        pytest.param(b"[1]\n", None, id="no object"),
        pytest.param(b"\xff\n", None, id="no text"),
    ],
)
def test_a_line_that_any_program_wrote_is_read_or_skipped(line: bytes, metrics: dict[str, Any] | None) -> None:
    assert metrics_of(line) == metrics


def test_malformed_lines_hide_no_others(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert list(read_metrics(file)) == []
    file.write_bytes(b'{"step": 1}\nbroken\n{"step": 2}\n{"step": 3')
    assert [line["step"] for line in read_metrics(file)] == [1, 2]
