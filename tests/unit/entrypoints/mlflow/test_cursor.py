"""How far the jobs were looked at for MLflow."""

import json

import pytest

from mafunzo.entities.job import Job, JobStatus
from mafunzo.entrypoints.mlflow.cursor import RECENT, Cursor, cursor_of


def job(name: str, status: JobStatus = JobStatus.COMPLETED) -> Job:
    return Job(name, "a job", "chat", "c:1", status=status)


def test_it_remembers_the_newest_and_those_that_have_not_ended() -> None:
    first = Cursor().back([(9, job("c", JobStatus.RUNNING)), (7, job("b"))], 2)
    cursor = first.forward([job("c", JobStatus.RUNNING), job("b")], [])
    assert cursor == Cursor(("c", "b"), frozenset({"c"}), older=7, is_whole=False)
    cursor = cursor.forward([job("d")], [job("c")])
    assert (cursor.recent, cursor.open) == (("d", "c", "b"), frozenset())
    cursor = cursor.back([(3, job("a", JobStatus.QUEUED))], 2)
    assert (cursor.older, cursor.is_whole, cursor.open) == (3, True, {"a"})


def test_it_keeps_few_names() -> None:
    cursor = Cursor().forward([job(f"j{number}") for number in range(3 * RECENT)], [])
    assert len(cursor.recent) == RECENT and cursor.recent[0] == "j0"


def test_it_is_the_same_after_a_restart() -> None:
    cursor = Cursor(("b", "a"), frozenset({"a"}), older=4, is_whole=True)
    assert cursor_of(json.loads(json.dumps(cursor.body()))) == cursor
    with pytest.raises(LookupError):
        cursor_of({"recent": []})
