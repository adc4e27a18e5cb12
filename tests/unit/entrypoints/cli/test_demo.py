"""Tests of `mafunzo demo`: what it makes of the conversations, and how it tells results."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mafunzo.control.workspace.datasets import DataSets
from mafunzo.entities.speed import Speed
from mafunzo.entrypoints.cli import demo as demo_module
from mafunzo.entrypoints.cli.demo_size import SIZES, DemoSize
from mafunzo.errors import InvalidParameter, RefusedError
from tests.support.command_line import Shell


def row(number: int) -> str:
    messages = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "an\nanswer"}]
    return json.dumps({"messages": messages})


def test_the_first_rows_are_learned_and_an_eighth_and_a_quarter_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = {"train": tmp_path / "all-train.jsonl", "test": tmp_path / "all-test.jsonl"}
    for file in splits.values():
        file.write_text("".join(row(number) + "\n" for number in range(60)))
    workspace = SimpleNamespace(data=SimpleNamespace(get=lambda name, to, overwrite: splits))
    files = demo_module._conversations(cast(Any, workspace), tmp_path, 40, frozenset())
    lines = {name: file.read_text().splitlines() for name, file in files.items()}
    assert {name: len(part) for name, part in lines.items()} == {"train": 40, "validation": 5, "test": 10}
    assert not set(lines["validation"]) & set(lines["train"]), (
        "what is learned from is not among what chooses the checkpoint"
    )
    assert all(len(set(part)) == len(part) for part in lines.values())
    told = capsys.readouterr().out
    assert "    assistant an answer" in told.splitlines()
    assert "60 of 60 train and 60 of 60 test" in told
    again = demo_module._conversations(cast(Any, workspace), tmp_path, 40, frozenset())
    assert lines == {name: file.read_text().splitlines() for name, file in again.items()}, "a seed draws them"


def test_no_conversation_with_a_word_of_the_list_is_drawn(tmp_path: Path) -> None:
    splits = {"train": tmp_path / "all-train.jsonl", "test": tmp_path / "all-test.jsonl"}
    illegal = json.dumps({"messages": [{"role": "user", "content": "hm\nIllegal?"}]})
    for file in splits.values():
        file.write_text("".join(f"{row(number)}\n{illegal}\n" for number in range(60)))
    workspace = SimpleNamespace(data=SimpleNamespace(get=lambda name, to, overwrite: splits))
    files = demo_module._conversations(cast(Any, workspace), tmp_path, 40, frozenset({"illegal"}))
    assert all("Illegal" not in file.read_text() for file in files.values())
    with pytest.raises(
        InvalidParameter, match=r"--rows is 56, and there are conversations for 54 at most\. Lower it\."
    ):
        demo_module._conversations(cast(Any, workspace), tmp_path, 56, frozenset({"illegal"}))


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


@pytest.mark.parametrize(
    ("is_better", "word"),
    [
        pytest.param(True, "better", id="better"),
        pytest.param(False, "worse", id="worse"),
        pytest.param(None, "unclear", id="unclear"),
    ],
)
def test_a_comparison_is_told_with_its_intervals(
    is_better: bool | None, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluationResult").mkdir()
    loss = {
        "title": "loss (nats)",
        "base": estimate(3),
        "tuned": estimate(2),
        "difference": estimate(-1),
        "is_better": is_better,
    }
    metrics = {
        "comparisons": {"loss": loss},
        "verdict": "It got better.",
        "forgetting": {"prompts": 4, "kl": estimate(0.5)},
    }
    (tmp_path / "evaluationResult" / "metrics.json").write_text(json.dumps(metrics))
    sample = {"messages": [{"role": "user", "content": "Hi"}], "reference": "a", "base": "b", "tuned": "c\nd"}
    samples = [sample | {"base": "a worst reply"}, sample]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    demo_module._print_comparison(tmp_path, frozenset({"worst"}))
    told = capsys.readouterr().out
    assert "loss  3.000 [2.900, 3.100]  2.000 [1.900, 2.100]  -1.000 [-1.100, -0.900]  " + word in told
    assert "on 4 general prompts the tuned model is 0.500 [0.400, 0.600] nats from its base" in told
    assert "It got better." in told
    assert told.splitlines().count("  tuned     c d") == 1, "a sample with a word of the list isn't shown"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (754.9, "12 min 34 s")],
    ids=["none", "below a minute", "a minute", "minutes"],
)
def test_a_duration_is_told_in_minutes_from_one_on(seconds: float, text: str) -> None:
    assert demo_module._duration(seconds) == text


SMALL = SIZES["small"]


class DemoWorkspace:
    """Remembers the jobs that were made, and those that were cancelled."""

    def __init__(self) -> None:
        self.open: dict[str, Any] = {}
        self.cancelled: list[str] = []
        self.is_up = False
        self.jobs = SimpleNamespace(list=lambda statuses: list(self.open.values()), get=self.get)

    def get(self, name: str) -> Any:
        return SimpleNamespace(name=name, cancel=lambda: self.cancelled.append(name))

    def finetune(self, tags: dict[str, str], **parameters: Any) -> Any:
        self.parameters = parameters
        name = f"job{len(self.open) + 1}"
        self.open[name] = SimpleNamespace(name=name, tags=tags)
        return self.get(name)

    def up(self) -> None:
        self.is_up = True


def test_a_demo_goes_on_with_the_job_of_one_that_was_interrupted() -> None:
    workspace = DemoWorkspace()
    first = demo_module._job(cast(Any, workspace), "tiny", replace(SMALL, rows=40), {})
    again = demo_module._job(cast(Any, workspace), "tiny", replace(SMALL, rows=40), {})
    assert again.name == first.name and workspace.is_up and workspace.cancelled == []
    other = demo_module._job(cast(Any, workspace), "tiny", SMALL, {})
    assert other.name != first.name and workspace.cancelled == [first.name]


@pytest.mark.parametrize(("rows", "gate"), [(79, "none"), (80, "better")])
def test_a_demo_with_too_few_rows_for_a_verdict_has_no_gate(rows: int, gate: str) -> None:
    workspace = DemoWorkspace()
    demo_module._job(cast(Any, workspace), "tiny", replace(SMALL, rows=rows), {})
    assert workspace.parameters["gate"] == gate


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> list[Speed]:
    """Return the speeds that are measured, the next one first."""
    speeds: list[Speed] = []
    monkeypatch.setattr("mafunzo.control.workspace.speed.measure_speed", lambda: speeds.pop(0))
    return speeds


def size_of(file: Path | None, is_sure: bool = False) -> DemoSize:
    return demo_module._size(tuple(SIZES.values()), file, "tiny", 135_000_000, is_sure)


def test_a_demo_takes_the_size_of_the_one_before(
    speed: list[Speed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speed.append(Speed(1e13, "bfloat16", 64 * 10**9))
    assert size_of(tmp_path / "home" / "demo.json").name == "large"
    told = capsys.readouterr().out
    assert (
        "Chosen: size large, about 2 min: this machine computes 10,000 GFLOP/s in bfloat16, and 64.0 GB of memory"
        in told
    )
    assert size_of(tmp_path / "home" / "demo.json").name == "large", "it isn't measured again"
    assert "As the demo before: size large" in capsys.readouterr().out


def test_a_slow_machine_is_told_how_long_it_takes_and_asked(
    speed: list[Speed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Speed(1e9, "float32", 64 * 10**9)
    speed.extend([slow] * 4)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(
        RefusedError, match=r"would take about \d+ minutes on this machine\. Start it with --yes if it may"
    ):
        size_of(tmp_path / "demo.json")
    assert not (tmp_path / "demo.json").exists()
    assert size_of(None, is_sure=True).name == "small"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    answers = [False, True]
    monkeypatch.setattr("typer.confirm", lambda text: answers.pop(0))
    with pytest.raises(RefusedError, match="wasn't started"):
        size_of(None)
    assert size_of(None).name == "small"


def test_an_unknown_size_is_refused_with_the_known_ones(shell: Shell) -> None:
    assert "--size is 'huge', expected large, medium, small." in shell("demo", "--size", "huge", code=2)


def test_fetching_only_stops_before_the_story(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(DataSets, "get", lambda *_, **__: calls.append("conversations"))
    monkeypatch.setattr(demo_module, "negative_words", lambda cache, offline: calls.append("words"))
    job = SimpleNamespace(stream=lambda: calls.append("followed"))
    monkeypatch.setattr(
        "mafunzo.control.workspace.models.Models.import_", lambda self, model: calls.append(model) or job
    )
    monkeypatch.setattr("mafunzo.control.workspace.Workspace.down", lambda self: calls.append("down"))
    shell("demo", "--fetch-only", "--home", tmp_path / "demo", "--model", "tiny-llama")
    assert calls == ["conversations", "words", "tiny-llama", "followed", "down"]


def test_fewer_than_ten_rows_are_refused(shell: Shell) -> None:
    assert "--rows" in shell("demo", "--rows", "9", code=2)
