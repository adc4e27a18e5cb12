"""Tests of `mafunzo.entrypoints.terminal.follow`: a job's events, and what to do next."""

import json
from typing import Any, cast

import pytest

from mafunzo.entities.job import Job
from mafunzo.entrypoints.terminal.follow import follow


class Handle:
    """A job that prints one event."""

    name = "j1"
    job = Job("j1", "j1", "chat", "c:1")

    def stream(self) -> None:
        print("an event")


@pytest.mark.parametrize(
    ("detach", "printed"),
    [
        pytest.param(False, "an event\nDo this.\n", id="followed, then what to do next"),
        pytest.param(True, "j1\n", id="detached, only its name"),
    ],
)
def test_a_job_is_followed_or_named(detach: bool, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    follow(cast(Any, Handle()), detach, as_json=False, next_step="Do this.")
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("detach", [False, True])
def test_the_last_thing_that_is_printed_is_the_job_as_json(detach: bool, capsys: pytest.CaptureFixture[str]) -> None:
    follow(cast(Any, Handle()), detach, as_json=True, next_step="Do this.")
    events, brace, body = capsys.readouterr().out.partition("{")
    assert events == ("" if detach else "an event\n")
    assert json.loads(brace + body)["name"] == "j1"
