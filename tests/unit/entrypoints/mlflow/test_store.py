"""What users may do to MLflow's runs: all to their own, tags and notes to those that show jobs, and a running step to its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException

from mafunzo.entrypoints.mlflow.job_facts import JobFacts, StepFacts, write_job_facts
from mafunzo.entrypoints.mlflow.store import RunStore, UserStore
from mafunzo.entrypoints.mlflow.view import View
from mafunzo.tracking.metrics import read_metrics
from mafunzo.tracking.run import step_run_id

STEP = StepFacts("train", "running", attempt=1, started_at=100.0, parameters={"lr": 0.1}, is_users=True)
LOSS = Metric("loss", 2.5, 1767268800123, 3)


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def view(jobs: Path, store: RunStore) -> View:
    return View(jobs, jobs.parent / "artifacts", store)


@pytest.fixture
def users(database: str, view: View) -> UserStore:
    return UserStore(database, "mlflow-artifacts:/", view)


def start_job(jobs: Path, *steps: StepFacts, status: str = "running") -> None:
    """Leave behind what the books and the scheduler leave before a step's command begins."""
    write_job_facts(jobs, JobFacts("job1", "chat", status=status, parameters={"lr": 0.1}, steps=steps))
    for step in steps:
        (jobs / "job1" / step.name / str(step.attempt)).mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s, run: s.log_metric(run, LOSS), id="a metric"),
        pytest.param(lambda s, run: s.log_param(run, Param("lr", "1")), id="a parameter"),
        pytest.param(lambda s, run: s.log_batch(run, [LOSS], [], []), id="a batch"),
        pytest.param(lambda s, run: s.update_run_info(run, RunStatus.FAILED, 1, None), id="its status"),
        pytest.param(lambda s, run: s.update_run_info(run, None, None, "other"), id="its name"),
        pytest.param(lambda s, run: s.log_outputs(run_id=run, models=[]), id="a model"),
        pytest.param(lambda s, run: s.delete_run(run), id="its end"),
        pytest.param(lambda s, run: s.set_tag(run, RunTag("mafunzo.key", "other")), id="a tag of ours"),
        pytest.param(
            lambda s, run: s.log_batch(run, [], [], [RunTag("mafunzo.job", "x")]), id="a tag of ours in a batch"
        ),
        pytest.param(lambda s, run: s.delete_tag(run, "mafunzo.job"), id="a tag of ours, deleted"),
    ],
)
def test_a_run_that_shows_a_job_cant_be_changed(
    change: Callable[..., Any], jobs: Path, users: UserStore, view: View
) -> None:
    start_job(jobs, StepFacts("finetune", "running", attempt=1))
    view.tick()
    before = users.get_run("job1")
    with pytest.raises(MlflowException, match="shows a job of Mafunzo") as refusal:
        change(users, "job1")
    assert refusal.value.get_http_status_code() == 403
    assert users.get_run("job1").to_dictionary() == before.to_dictionary()


def test_a_run_that_shows_a_job_takes_tags_and_notes(jobs: Path, users: UserStore, view: View) -> None:
    start_job(jobs, StepFacts("finetune", "running", attempt=1))
    view.tick()
    users.set_tag("job1", RunTag("mlflow.note.content", "the good one"))
    users.log_batch("job1", [], [], [RunTag("team", "one")])
    users.delete_tag("job1", "team")
    assert users.get_run("job1").data.tags["mlflow.note.content"] == "the good one"


def test_an_experiment_with_jobs_can_be_neither_deleted_nor_renamed(jobs: Path, users: UserStore, view: View) -> None:
    start_job(jobs)
    view.tick()
    experiment = users.get_experiment_by_name("chat").experiment_id
    for change in (lambda: users.delete_experiment(experiment), lambda: users.rename_experiment(experiment, "x")):
        with pytest.raises(MlflowException, match="neither deleted nor renamed"):
            change()
    users.delete_experiment(users.create_experiment("mine"))


def test_users_own_runs_are_theirs(users: UserStore) -> None:
    run = users.create_run(users.create_experiment("mine"), "ada", 1, [], "mine").info.run_id
    users.log_batch(run, [LOSS], [Param("lr", "1")], [])
    users.update_run_info(run, RunStatus.FINISHED, 2, "renamed")
    users.delete_run(run)
    users.restore_run(run)
    assert users.get_run(run).info.run_name == "renamed"


def test_a_command_jobs_run_is_there_once_its_step_was_laid_out_and_takes_what_the_step_logs(
    jobs: Path, users: UserStore, view: View
) -> None:
    start_job(jobs, STEP)
    assert users.get_run("job1").data.params == {}
    users.log_batch("job1", [LOSS, Metric("loss", float("nan"), 1767268800124, 4)], [Param("lr", "0.2")], [])
    users.log_metric("job1", Metric("accuracy", 0.5, 1767268800125, 4))
    lines = list(read_metrics(jobs / "job1" / "train" / "1" / "metrics.jsonl"))
    assert lines == [
        {"time": 1767268800.123, "step": 3, "loss": 2.5},
        {"time": 1767268800.124, "step": 4, "loss": None},
        {"time": 1767268800.125, "step": 4, "accuracy": 0.5},
    ]
    view.tick()
    assert [point.timestamp for point in users.get_metric_history("job1", "accuracy")] == [1767268800125]
    assert users.get_run("job1").data.params == {"lr": "0.2"}


def test_what_is_logged_again_for_a_model_is_kept_once(jobs: Path, users: UserStore) -> None:
    start_job(jobs, STEP)
    users.log_metric("job1", LOSS)
    experiment = users.get_experiment_by_name("chat").experiment_id
    model = users.create_logged_model(experiment, "model", "job1").model_id
    again = Metric(LOSS.key, LOSS.value, LOSS.timestamp, LOSS.step, model_id=model)
    users.log_batch("job1", [again, Metric("accuracy", 0.5, LOSS.timestamp, 3, model_id=model)], [], [])
    lines = list(read_metrics(jobs / "job1" / "train" / "1" / "metrics.jsonl"))
    assert [sorted(line.keys() - {"time", "step"}) for line in lines] == [["loss"], ["accuracy"]]


def test_what_one_step_of_several_logs_is_its_own_and_its_jobs(jobs: Path, users: UserStore, view: View) -> None:
    start_job(jobs, STEP, StepFacts("score", "waiting", is_users=True))
    run = step_run_id("job1", "train", 1, is_alone=False)
    users.log_metric(run, LOSS)
    view.tick()
    for run_id in (run, "job1"):
        assert [point.step for point in users.get_metric_history(run_id, "loss")] == [3]
    assert users.get_run(run).data.tags["mlflow.parentRunId"] == "job1"
    with pytest.raises(MlflowException, match="tags and notes only"):
        users.log_metric("job1", LOSS)


def test_a_step_that_has_ended_or_is_tried_again_no_longer_changes_its_run(
    jobs: Path, users: UserStore, view: View
) -> None:
    steps = (STEP, StepFacts("score", "waiting", is_users=True))
    start_job(jobs, *steps)
    first, second = (step_run_id("job1", "train", attempt, is_alone=False) for attempt in (1, 2))
    users.log_metric(first, LOSS)
    (jobs / "job1" / "train" / "2").mkdir()
    users.log_metric(second, LOSS)
    with pytest.raises(MlflowException, match="tags and notes only"):
        users.log_metric(first, LOSS)
    start_job(jobs, StepFacts("train", "completed", attempt=2, is_users=True), steps[1])
    view.tick()
    with pytest.raises(MlflowException, match="tags and notes only"):
        users.log_metric(second, LOSS)


def test_a_command_that_is_tried_again_goes_on_in_its_jobs_run(jobs: Path, users: UserStore, view: View) -> None:
    start_job(jobs, STEP)
    users.log_metric("job1", LOSS)
    (jobs / "job1" / "train" / "2").mkdir()
    view.tick()
    users.log_metric("job1", Metric("loss", 1.5, 1767268900000, 1))
    view.tick()
    again = (jobs / "job1" / "train" / "2" / "metrics.jsonl").read_text()
    assert json.loads(again) == {"time": 1767268900.0, "step": 1, "loss": 1.5}
    assert [point.value for point in users.get_metric_history("job1", "loss")] == [2.5, 1.5]


def test_a_run_that_isnt_there_isnt_found(users: UserStore) -> None:
    with pytest.raises(MlflowException, match="not found"):
        users.get_run("nobodys")


@pytest.mark.parametrize(
    "location",
    ["file:///etc", "/etc", "s3://bucket/x", "http://127.0.0.1/x", "mlflow-artifacts:/../x", "mlflow-artifacts:/a%2Fb"],
)
def test_files_of_runs_are_kept_nowhere_but_in_the_home(location: str, users: UserStore) -> None:
    with pytest.raises(MlflowException, match="artifact_location is ") as refusal:
        users.create_experiment("elsewhere", location)
    assert refusal.value.error_code == "INVALID_PARAMETER_VALUE"
    assert users.get_experiment_by_name("elsewhere") is None


def test_an_experiment_may_name_a_place_of_the_home(users: UserStore) -> None:
    number = users.create_experiment("mine", "mlflow-artifacts:/mine")
    assert users.get_experiment(number).artifact_location.endswith("mine")
    assert users.create_experiment("plain") != number
