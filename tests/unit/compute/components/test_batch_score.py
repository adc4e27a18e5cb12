"""Every row of a file answered as the engine answers it alone, and what becomes of rows that can't be."""

import csv
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mafunzo.compute.chat.template import text_ids
from mafunzo.compute.components import batch_score, predictions
from mafunzo.compute.components.command import load_interface, parse
from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.inference.engine import Engine
from mafunzo.compute.inference.loading import load_model
from mafunzo.compute.inference.sampler import Sampling
from mafunzo.entities.parameters.score import stop_texts
from mafunzo.errors import InvalidData, InvalidParameter
from tests.support.stray_signal import stray_sigterm_told

INTERFACE = load_interface(Path(batch_score.__file__).with_suffix(".yml"))
SHORT = ("--max_new_tokens", "6")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    make("tiny-llama", 0, folder)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path, *({"prompt": f"Question {number}"} for number in range(5)))


def write(folder: Path, *bodies: Any) -> Path:
    (file := folder / "rows.jsonl").write_text("\n".join(json.dumps(body) for body in bodies))
    return file


def score(model: Path, rows: Path, *more: str) -> list[dict[str, Any]]:
    out = rows.parent / "out"
    batch_score.work(parse(INTERFACE, ["--model", str(model), "--data", str(rows), "--predictions", str(out), *more]))
    return [json.loads(text) for text in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_row_is_answered_as_by_itself(model: Path, rows: Path) -> None:
    lines = score(model, rows, *SHORT, "--max_batch", "2", "--temperature", "0.8", "--seed", "7")
    loaded = load_model(model)
    for index, line in enumerate(lines):
        conversation = loaded.tokenizer.apply_chat_template(
            line["messages"], tokenize=False, add_generation_prompt=True
        )
        prompt = text_ids(loaded.tokenizer, conversation)
        (alone,) = loaded.engine.generate([prompt], 6, Sampling(0.8, seed=7 + index))
        assert line["answer"] == alone.text
        assert line["usage"]["prompt_tokens"] == len(prompt)
    loaded.engine.close()
    assert [(line["file"], line["row"]) for line in lines] == [("rows.jsonl", number) for number in range(1, 6)]
    assert {line["finish_reason"] for line in lines} <= {"stop", "length"}


def test_a_row_that_fails_hides_no_other_and_is_counted(model: Path, tmp_path: Path) -> None:
    rows = write(tmp_path, {"prompt": "1"}, {"text": "2"}, {"prompt": "long " * 5000}, {"prompt": "4"})
    lines = score(model, rows, *SHORT)
    assert ["answer" in line for line in lines] == [True, False, False, True]
    assert "asks nothing" in lines[1]["error"]["message"]
    assert lines[2]["error"]["code"] == "context_length_exceeded"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["rows"], report["answered"], report["failed"], len(report["errors"])) == (4, 2, 2, 2)


def test_more_failures_than_may_be_end_the_job(model: Path, tmp_path: Path) -> None:
    rows = write(tmp_path, {"text": "1"}, {"text": "2"}, {"prompt": "3"})
    with pytest.raises(InvalidData, match="2 rows failed, and error_threshold is 1"):
        score(model, rows, *SHORT, "--error_threshold", "1")
    assert len(score(model, rows, *SHORT, "--error_threshold", "2")) == 3


def test_no_answer_at_all_is_a_failure(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="No row could be answered") as ended:
        score(model, write(tmp_path, {"text": "1"}), *SHORT)
    assert ended.value.faults[0].startswith("1 rows: asks nothing")


@pytest.mark.parametrize(
    ("text", "stops"),
    [(None, ()), ("", ()), ("#", ("#",)), ('["a", "b"]', ("a", "b")), ("[INST]", ("[INST]",)), ("[1]", None)],
)
def test_stop_is_a_text_or_several(text: str | None, stops: tuple[str, ...] | None) -> None:
    assert stop_texts(text) == stops


def test_what_types_do_not_say_is_refused(model: Path, rows: Path) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        score(model, rows, "--stop", "[1]", "--output_file_name", "../a.txt")
    assert [fault.split()[0] for fault in refusal.value.faults] == ["output_file_name", "stop"]


def test_answers_come_as_a_table_too(model: Path, tmp_path: Path) -> None:
    rows = write(tmp_path, {"prompt": "1"}, {"text": "2"})
    argv = ["--model", str(model), "--data", str(rows), "--predictions", str(tmp_path / "out"), *SHORT]
    batch_score.work(parse(INTERFACE, [*argv, "--output_file_name", "answers.csv"]))
    with (tmp_path / "out" / "answers.csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["row"], good["finish_reason"] in ("stop", "length"), good["error"]) == ("1", True, "")
    assert (bad["answer"], "asks nothing" in bad["error"]) == ("", True)


def test_a_stop_text_ends_an_answer(model: Path, rows: Path) -> None:
    (whole, *_) = score(model, rows, *SHORT)
    stop = whole["answer"][1]
    (rows.parent / "out").rename(rows.parent / "whole")
    (cut, *_) = score(model, rows, *SHORT, "--stop", stop)
    assert cut["answer"] == whole["answer"].split(stop)[0]
    assert cut["finish_reason"] == "stop"


@pytest.fixture
def stray_sigterm() -> Iterator[None]:
    with stray_sigterm_told():
        yield


@pytest.mark.usefixtures("stray_sigterm")
def test_sigterm_writes_what_is_done_and_the_next_run_goes_on(
    model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, submit = predictions.Predictions.add, Engine.submit
    asked: list[int] = []

    def add_and_stop(self: predictions.Predictions, line: Any) -> None:
        add(self, line)
        if len(self.done) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def count(self: Engine, *arguments: Any) -> Any:
        asked.append(1)
        return submit(self, *arguments)

    monkeypatch.setattr(predictions.Predictions, "add", add_and_stop)
    with pytest.raises(SystemExit) as ended:
        score(model, rows, *SHORT, "--max_batch", "1")
    assert ended.value.code == 143
    monkeypatch.setattr(predictions.Predictions, "add", add)
    monkeypatch.setattr(Engine, "submit", count)
    lines = score(model, rows, *SHORT)
    assert [line["row"] for line in lines] == [1, 2, 3, 4, 5]
    assert len(asked) == 3
    assert score(model, rows, *SHORT) == lines  # done already
    assert len(asked) == 3


def test_where_nothing_can_be_written_sigterm_ends_the_process_again(
    model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: predictions.Predictions) -> None:
        raise OSError("No space left on device")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(predictions.Predictions, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        score(model, rows, *SHORT)
    assert signal.getsignal(signal.SIGTERM) is before
