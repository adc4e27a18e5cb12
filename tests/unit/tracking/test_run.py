"""Which run a user's step logs into."""

import pytest

from mafunzo.tracking.run import job_run_id, step_run_id


@pytest.mark.parametrize(
    ("job", "is_its_name"),
    [("brave_fig_x1", True), ("a-b", True), ("with.dot", False), ("_hidden", False), ("j" * 300, False)],
)
def test_a_jobs_run_has_its_name_where_mlflow_allows_it(job: str, is_its_name: bool) -> None:
    assert (job_run_id(job) == job) is is_its_name
    assert is_its_name or len(job_run_id(job)) == 32


def test_each_attempt_of_a_step_has_a_run_of_its_own_unless_the_step_is_the_whole_job() -> None:
    first, second = (step_run_id("job1", "train", attempt, is_alone=False) for attempt in (1, 2))
    assert first != second
    assert len(first) == 32
    assert step_run_id("job1", "train", 2, is_alone=True) == "job1"
