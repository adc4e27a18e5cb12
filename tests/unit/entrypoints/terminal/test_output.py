"""Tests of `mafunzo.entrypoints.terminal.output`: tables, facts, JSON, a job's progress, sizes and a shell's lines."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest

from mafunzo.entities.job import Job, JobStatus
from mafunzo.entrypoints.terminal.output import (
    follow,
    human_size,
    print_entity,
    print_exports,
    print_facts,
    print_json,
    print_list,
    print_result,
    print_table,
)


@dataclass(frozen=True)
class Row:
    name: str
    at: datetime


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(
            Row("a", datetime(2026, 1, 2, tzinfo=UTC)), {"name": "a", "at": "2026-01-02T00:00:00+00:00"}, id="entity"
        ),
        pytest.param(MappingProxyType({"a": 1}), {"a": 1}, id="mapping"),
        pytest.param(Path("/x/y"), "/x/y", id="path"),
        pytest.param((1, 2), [1, 2], id="tuple"),
        pytest.param(iter("ab"), ["a", "b"], id="iterable"),
        pytest.param(JobStatus.QUEUED, "queued", id="enum"),
        pytest.param({"e": ValueError("no")}, {"e": "no"}, id="anything else is its text"),
    ],
)
def test_json_is_made_of(value: object, expected: object, capsys: pytest.CaptureFixture[str]) -> None:
    print_json(value)
    assert json.loads(printed(capsys)) == expected


def test_json_keeps_letters_of_any_language(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "Größe"})
    assert "Größe" in printed(capsys)


def test_a_table_has_its_columns_aligned_below_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "n"), [("longer name", 1), ("b", None), ("c", {"x": 1, "y": 2})], "none")
    lines = [line.rstrip() for line in printed(capsys).splitlines()]
    assert lines == ["name         n", "longer name  1", "b", "c            x=1, y=2"]


def test_a_table_without_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [], "No jobs.")
    assert printed(capsys) == "No jobs.\n"


def test_a_row_that_goes_into_a_pipe_is_one_line_up_to_200_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [("x" * 90, "y" * 90)], "none")
    assert f"{'x' * 90}  {'y' * 90}" in printed(capsys)


def test_facts_are_aligned_and_empty_ones_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts({"name": "a", "empty": "", "none": None, "list": [], "tags": {}, "longest name": 0})
    assert printed(capsys) == "name          a\nlongest name  0\n"


def test_a_moment_is_shown_in_this_machines_time(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    print_facts({"at": moment})
    assert printed(capsys) == f"at  {moment.astimezone():%Y-%m-%d %H:%M:%S}\n"


def test_an_environment_is_lines_that_a_shell_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    print_exports({"A": "plain", "B": "it's $HOME"})
    assert printed(capsys) == "export A=plain\nexport B='it'\"'\"'s $HOME'\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        pytest.param(0, "0 B", id="nothing"),
        pytest.param(999, "999 B", id="below a kilobyte"),
        pytest.param(1000, "1.0 kB", id="a kilobyte"),
        pytest.param(269_100_000, "269.1 MB", id="megabytes"),
        pytest.param(4.2e9, "4.2 GB", id="gigabytes"),
        pytest.param(3.5e12, "3.5 TB", id="terabytes"),
        pytest.param(2e15, "2000.0 TB", id="there is no larger unit"),
    ],
)
def test_a_size_is_told_in_its_own_unit(size: float, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize("as_json", [False, True])
def test_a_result_is_lines_or_json(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"deleted": "a"}, as_json, "Deleted a", Path("/of/a"))
    assert printed(capsys) == ('{\n  "deleted": "a"\n}\n' if as_json else "Deleted a\n/of/a\n")


def test_a_list_is_a_table_or_the_entities_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        print_list([{"name": "a", "size": 1}], as_json, ("name",), [("a",)], "None.")
    assert printed(capsys) == 'name\na   \n[\n  {\n    "name": "a",\n    "size": 1\n  }\n]\n'


def test_an_entity_is_facts_or_all_of_it_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        print_entity({"size": 1}, as_json, {"size": "1 B"})
    assert printed(capsys) == 'size  1 B\n{\n  "size": 1\n}\n'


class Handle:
    """A job that prints one event."""

    name = "j1"
    job = Job("j1", "j1", "chat", "c:1")

    def stream(self, as_json: bool = False) -> None:
        print("an event as JSON" if as_json else "an event")


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
    assert events == ("" if detach else "an event as JSON\n")
    assert json.loads(brace + body)["name"] == "j1"
