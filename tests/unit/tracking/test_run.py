"""Which run a user's step logs into, and where what it has logged is looked for."""

from pathlib import Path

import pytest

from mafunzo.tracking.run import add_logged_folders, job_run_id, logged_folders, step_run_id


@pytest.mark.parametrize(
    ("job", "is_its_name"),
    [("brave_fig_x1", True), ("a-b", True), ("with.dot", False), ("_hidden", False), ("j" * 300, False)],
)
def test_a_jobs_run_has_its_name_where_a_run_may_be_called_so(job: str, is_its_name: bool) -> None:
    assert (job_run_id(job) == job) is is_its_name
    assert is_its_name or len(job_run_id(job)) == 32


def test_each_attempt_of_a_step_has_a_run_of_its_own_unless_the_step_is_the_whole_job() -> None:
    first, second = (step_run_id("job1", "train", attempt, is_alone=False) for attempt in (1, 2))
    assert first != second
    assert len(first) == 32
    assert step_run_id("job1", "train", 2, is_alone=True) == "job1"


def test_what_a_run_has_logged_is_looked_for_once_in_each_place_that_was_added() -> None:
    def source(home: Path, run_id: str) -> list[tuple[str, Path]]:
        return [("net/", home / run_id)] if run_id == "of this test" else []

    add_logged_folders(source)
    add_logged_folders(source)
    assert list(logged_folders(Path("home"), "of this test")) == [("net/", Path("home/of this test"))]
