"""Tests of `mafunzo.entrypoints.mlflow.job_facts`: what is written for the view comes back, and only when it is new."""

from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.entrypoints.mlflow.job_facts import JobFacts, StepFacts, read_job_facts, write_job_facts

TRAIN = StepFacts("train", "running", attempt=1, started_at=100.0, parameters={"lr": 0.1}, is_users=True)
JOB = JobFacts("job1", "chat", "Grüße", "running", "amina", 100.0, None, {"lr": 0.1}, {"team": "one"}, (TRAIN,))


def test_facts_are_written_only_if_they_say_something_new(tmp_path: Path) -> None:
    assert write_job_facts(tmp_path, JOB)
    assert read_job_facts(tmp_path / "job1") == JOB
    assert not write_job_facts(tmp_path, JOB)
    ended = replace(JOB, status="completed")
    assert write_job_facts(tmp_path, ended)
    assert read_job_facts(tmp_path / "job1") == ended
    assert [path.name for path in (tmp_path / "job1").iterdir()] == ["job.json"], "no draft is left"


@pytest.mark.parametrize(
    ("steps", "is_one"),
    [
        pytest.param((TRAIN,), True, id="one of the user's own"),
        pytest.param((replace(TRAIN, is_users=False),), False, id="one of ours"),
        pytest.param((TRAIN, replace(TRAIN, name="other")), False, id="two"),
        pytest.param((), False, id="none yet"),
    ],
)
def test_one_step_of_the_users_own_shares_the_jobs_run(steps: tuple[StepFacts, ...], is_one: bool) -> None:
    assert replace(JOB, steps=steps).is_one_command is is_one


@pytest.mark.parametrize(("status", "may_run"), [("waiting", True), ("running", True), ("failed", False)])
def test_a_step_may_run_until_it_has_ended(status: str, may_run: bool) -> None:
    assert replace(TRAIN, status=status).may_run is may_run
