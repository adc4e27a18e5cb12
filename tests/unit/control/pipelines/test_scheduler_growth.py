"""A scheduler over a home with many past jobs: what it reads follows what is open, never what has been."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from mafunzo.control.pipelines.scheduler import SWEEP
from tests.support.past_jobs import add_past_jobs, job_name
from tests.support.pipeline_bench import Bench, shell
from tests.support.rows_read import rows_read

PAST = 2_000


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    opened = Bench(tmp_path / "home")
    yield opened
    opened.close()


@pytest.mark.slow
def test_recovery_and_the_first_step_read_no_row_of_a_job_that_has_ended(bench: Bench) -> None:
    add_past_jobs(bench.database, bench.home, PAST, has_files=False)
    bench.submit("new", shell("hello", "echo hello"))
    with rows_read() as rows:
        assert bench.scheduler.tick()
    assert bench.statuses("new") == {"hello": "running"}
    assert 0 < rows["job"] < 20 and 0 < rows["step"] < 20


def test_a_tick_with_nothing_to_do_asks_the_database_nothing_until_something_is_written(bench: Bench) -> None:
    add_past_jobs(bench.database, bench.home, 10, has_files=False)
    bench.scheduler.tick()
    statements: list[str] = []
    event.listen(bench.database.engine, "before_cursor_execute", lambda *now: statements.append(now[2]))
    assert not any(bench.scheduler.tick() for _ in range(10))
    assert statements == []
    bench.submit("new", shell("hello", "echo hello"))
    statements.clear()
    assert bench.scheduler.tick() and statements
    bench.finish("new")


def test_what_past_jobs_have_left_is_cleaned_a_few_jobs_at_a_time_and_open_ones_first(bench: Bench) -> None:
    number = 3 * SWEEP
    add_past_jobs(bench.database, bench.home, number)
    leftovers = [bench.home.jobs / job_name(one) / "evaluate" / "1" / "inputs" for one in range(number)]
    for folder in leftovers:
        folder.mkdir()
    bench.scheduler.tick()
    assert sum(folder.exists() for folder in leftovers) == number - SWEEP
    for _ in range(3):
        bench.scheduler.tick()
    assert not any(folder.exists() for folder in leftovers)
    assert (leftovers[0].parent / "log.txt").exists()


def test_a_job_whose_folder_is_gone_while_it_is_looked_at_holds_up_no_other(bench: Bench) -> None:
    add_past_jobs(bench.database, bench.home, 2 * SWEEP)
    bench.scheduler.tick()
    for folder in bench.home.jobs.iterdir():
        folder.rename(bench.home.root / f"gone-{folder.name}")
    bench.submit("new", shell("hello", "echo hello"))
    assert bench.scheduler.tick()
    bench.finish("new")
