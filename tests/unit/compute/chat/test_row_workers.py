"""Rows prepared by other processes: the same, in order, and none of them outlives the one that it works for."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from mafunzo.compute.chat import row_workers
from mafunzo.compute.chat.row_cache import RowCache
from mafunzo.compute.chat.row_workers import Work, preparation, worker_count
from mafunzo.compute.chat.rows import PreparedRow
from mafunzo.dataset.files import RawRow
from mafunzo.errors import InvalidData

ROWS = [RawRow("a.jsonl", number, number, {"number": number}) for number in range(3000)]


class Preparer:
    """What a preparer of real rows is in its place: it writes down the process that it ran in."""

    def prepare(self, rows: Sequence[RawRow]) -> list[PreparedRow]:
        if any(row.body == {"number": -1} for row in rows):
            raise InvalidData("a row broke it")
        return [PreparedRow(text=json.dumps(row.body), reason=str(os.getpid())) for row in rows]


def prepared(rows: Sequence[RawRow], workers: int, cache: RowCache | None = None) -> list[PreparedRow]:
    preparer: Any = Preparer()
    with preparation(Work(preparer, cache), workers) as run:
        pairs = list(run(iter(rows)))
    assert [raw for raw, _ in pairs] == list(rows)
    return [row for _, row in pairs]


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_keep_their_order_whoever_prepares_them(workers: int) -> None:
    rows = prepared(ROWS, workers)
    assert [json.loads(row.text) for row in rows] == [row.body for row in ROWS]
    assert (str(os.getpid()) in {row.reason for row in rows}) is (workers == 0)
    assert len({row.reason for row in rows}) == max(workers, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_in_the_cache_is_not_prepared_again(workers: int, tmp_path: Path) -> None:
    first = prepared(ROWS, workers, RowCache(tmp_path, "t"))
    cache = RowCache(tmp_path, "t")
    more = [*ROWS, RawRow("a.jsonl", 3000, 3000, {"number": 3000})]
    again = prepared(more, workers, cache)
    assert [row.text for row in again[:3000]] == [row.text for row in first]
    assert again[: cache.rows_reused] == first[: cache.rows_reused]
    assert 1000 < cache.rows_reused < len(more)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_is_the_steps_own(workers: int) -> None:
    with pytest.raises(InvalidData, match="a row broke it"):
        prepared([*ROWS, RawRow("a.jsonl", 1, 1, {"number": -1}), *ROWS], workers)


@pytest.mark.parametrize(
    ("cores", "threads", "rows", "count"),
    [
        pytest.param(1, None, 10**6, 0, id="one core"),
        pytest.param(4, None, 1999, 0, id="few rows"),
        pytest.param(4, None, 2000, 2, id="enough rows for two"),
        pytest.param(4, None, 10**6, 4, id="all cores"),
        pytest.param(4, "3", 10**6, 3, id="those that the step holds"),
        pytest.param(4, "1", 10**6, 0, id="the one that the step holds"),
        pytest.param(4, "16", 10**6, 4, id="no more than there are"),
        pytest.param(4, "2,1", 10**6, 4, id="a list of levels"),
    ],
)
def test_there_is_a_worker_a_core_for_many_rows(
    cores: int, threads: str | None, rows: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_workers, "usable_cpus", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert worker_count(rows) == count


PROGRAM = """
import time
from mafunzo.compute.chat.row_workers import Work, preparation
from mafunzo.compute.chat.rows import PreparedRow
from mafunzo.dataset.files import RawRow

class Preparer:
    def prepare(self, rows):
        return [PreparedRow() for _ in rows]

def rows():
    for number in range(3000):
        yield RawRow("", number, number, {"number": number})
    print("ready", flush=True)
    time.sleep(600)

with preparation(Work(Preparer()), 2) as run:
    list(run(rows()))
"""


def test_workers_end_with_a_step_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
