"""Tests of `mafunzo estimate`: what it asks for, and what it prints."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.workspace.jobs import Jobs
from mafunzo.entities.estimate import Estimate, Scoreboard, Spread
from tests.support.command_line import Shell
from tests.support.made_estimate import made_estimate

TINY = ["estimate", "--model", "tiny-llama", "--train", "rows.jsonl"]


class Handle:
    """A job that estimates."""

    name = "estimate-1"

    def stream(self, to: Any) -> None:
        to.write("an event\n")

    def wait(self) -> None:
        pass


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What estimates were asked for with."""
    calls: list[dict[str, Any]] = []

    def estimate(_: Jobs, **values: Any) -> Any:
        calls.append(values)
        return Handle()

    def read_estimate(_: Jobs, name: str) -> Estimate:
        assert name == Handle.name
        return made_estimate()

    monkeypatch.setattr(Jobs, "estimate", estimate)
    monkeypatch.setattr(Jobs, "read_estimate", read_estimate)
    return calls


def test_it_takes_what_finetune_takes(shell: Shell, requests: list[dict[str, Any]], tmp_path: Path) -> None:
    (file := tmp_path / "job.yml").write_text("model: tiny-phi3\nlora_r: 2\ntest_file_path: /t.jsonl\n")
    ended = shell.run("estimate", file, "lora_r=4", "--on-bad-row", "skip")
    assert requests == [{"model": "tiny-phi3", "lora_r": "4", "test": "/t.jsonl", "on_bad_row": "skip"}]
    assert ended.stderr == "an event\n"
    lines = ended.stdout.splitlines()
    assert lines[0] == "model       tiny-llama:1, in float32 on cpu"
    assert lines[-1] == "disk        300.0 MB, 10.0 GB were free"  # no price, no cost


def test_for_programs_there_is_json_alone(shell: Shell, requests: list[dict[str, Any]]) -> None:
    assert json.loads(shell(*TINY, "--json")) == json.loads(json.dumps(made_estimate().as_dict()))
    assert len(requests) == 1


def test_the_scoreboard_says_how_far_estimates_were_off(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Scoreboard(12, 3, Spread(0.08, 0.21), Spread(0.03, 0.094))
    monkeypatch.setattr(Jobs, "scoreboard", lambda _: board)
    assert shell("estimate", "--scoreboard").splitlines() == [
        "runs    12 compared; 3 left out: never estimated, or without measurements",
        "time    off by 8.0% at the median, 21.0% at the 90th percentile",
        "memory  off by 3.0% at the median, 9.4% at the 90th percentile",
    ]
    assert json.loads(shell("estimate", "--scoreboard", "--json"))["memory"] == {"median": 0.03, "p90": 0.094}


def test_without_runs_the_scoreboard_is_empty(shell: Shell) -> None:
    assert shell("estimate", "--scoreboard") == "runs  0 compared\n"


def test_a_scoreboard_of_one_run_is_refused(shell: Shell) -> None:
    told = shell(*TINY, "lora_r=4", "--scoreboard", code=2)
    assert "--scoreboard is of all past runs, and lora_r, model, train of one. Leave out one of them." in told
