"""Tests of `mafunzo batch`: what it asks for, what it writes, and what is refused before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.jobs import Jobs
from mafunzo.entities.job import Job
from tests.support.command_line import Shell

REPORT = {"rows": 1200, "answered": 1199, "failed": 1}


class Handle:
    """A job that scores."""

    name = "score-1"
    job = Job("score-1", "tiny-llama on rows", "batch_score", "c:1")

    def stream(self, as_json: bool = False) -> None:
        print('{"event": 1}' if as_json else "an event")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What scorings were asked for with, and what was written."""
    calls: list[tuple[Any, ...]] = []

    def batch_score(_: Workspace, model: str, data: Path, **values: Any) -> Any:
        calls.append((model, data, values))
        return Handle()

    def write_predictions(_: Jobs, name: str, to: Path) -> dict[str, int]:
        calls.append((name, to))
        return REPORT

    monkeypatch.setattr(Workspace, "batch_score", batch_score)
    monkeypatch.setattr(Jobs, "write_predictions", write_predictions)
    return calls


def test_the_answers_are_written_when_the_job_has_ended(
    shell: Shell, requests: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    to = tmp_path / "answers.jsonl"
    words = ["--max-new-tokens", "9", "--set", "top_p=0.9", "--set", "stop=#"]
    told = shell("batch", "score", "tiny-llama", "rows.jsonl", "--to", to, *words)
    given = {"max_new_tokens": 9, "top_p": "0.9", "stop": "#"}
    assert requests == [("tiny-llama", Path("rows.jsonl"), given), ("score-1", to)]
    assert told == f"an event\n{to}: 1,199 of 1,200 rows answered, 1 failed, each with its reason\n"


def test_without_a_file_the_next_command_is_told(shell: Shell, requests: list[tuple[Any, ...]]) -> None:
    assert shell("batch", "score", "m", "d").splitlines()[-1] == "Answers: mafunzo batch fetch score-1 --to FILE"
    assert shell("batch", "score", "m", "d", "--detach") == "score-1\n"


def test_for_programs_events_are_followed_by_the_report(
    shell: Shell, requests: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    told = shell("batch", "score", "m", "d", "--to", tmp_path / "a", "--json")
    event, _, report = told.partition("\n")
    assert json.loads(event) == {"event": 1}
    assert json.loads(report) == {"file": str(tmp_path / "a"), **REPORT}
    assert json.loads(shell("batch", "fetch", "score-1", "--to", tmp_path / "a", "--json")) == json.loads(report)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        pytest.param(["--detach", "--to", "a"], "--detach doesn't wait", id="nobody waits for the answers"),
        pytest.param(["--to", "/"], "/ is a folder. Name a file.", id="a folder"),
        pytest.param(["--to", "/no/such/file"], "is in no folder that exists (/no/such)", id="no folder"),
        pytest.param(["--temperature", "1", "--set", "temperature=0"], "temperature: given as an option and with --set", id="twice"),
        pytest.param(["--set", "stop"], "'stop' isn't key=value", id="no value"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_starts(
    words: list[str], fault: str, shell: Shell, requests: list[tuple[Any, ...]]
) -> None:
    ended = shell.run("batch", "score", "m", "d", *words)
    assert ended.exit_code == 2
    assert fault in ended.stderr
    assert requests == []
