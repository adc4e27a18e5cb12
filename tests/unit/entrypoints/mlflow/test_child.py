"""Tests of `mafunzo.entrypoints.mlflow.child`: the facts about jobs, and a process that doesn't start."""

import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.store.home import Home
from mafunzo.entities.job import Job, JobStatus
from mafunzo.entrypoints.mlflow import child
from mafunzo.entrypoints.mlflow.child import PAGE, MlflowView, job_facts
from mafunzo.entrypoints.mlflow.job_facts import read_job_facts
from mafunzo.errors import ServerFailed
from tests.support.finished_job import BEGAN, add_finished_job
from tests.support.past_jobs import add_past_jobs
from tests.support.rows_read import rows_read
from tests.support.statements import statements_sent


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    add_finished_job(Home(tmp_path / "home"))
    with Workspace(tmp_path / "home", port=0) as opened:
        yield opened


@pytest.fixture
def view(workspace: Workspace) -> MlflowView:
    return MlflowView(workspace.home, workspace.jobs)


def test_a_jobs_facts_are_what_people_see_of_it(workspace: Workspace) -> None:
    handle = workspace.jobs.get("job1")
    facts = job_facts(handle.job, handle.steps)
    assert (facts.name, facts.experiment, facts.status) == ("job1", "chat", "completed")
    assert facts.parameters == {"learning_rate": 0.0002, "train_file_path": "train.jsonl"}, "a file by its name"
    assert facts.tags == {"mafunzo.component": "chat_completion_pipeline:1", "team": "one"}
    [step] = facts.steps
    assert (step.name, step.attempt, step.started_at, step.is_users) == ("finetune", 1, BEGAN.timestamp(), False)
    assert step.parameters == {"learning_rate": 0.0002, "train_file_path": "train.jsonl"}
    assert not facts.is_one_command


def test_a_job_that_has_not_begun_has_no_times() -> None:
    facts = job_facts(Job("j", "j", "chat", "c:1"), [])
    assert (facts.status, facts.started_at, facts.ended_at, facts.steps) == ("queued", None, None, ())


def test_facts_of_a_job_that_has_ended_are_written_once(workspace: Workspace, view: MlflowView) -> None:
    workspace.records.jobs.add(Job("open", "open", "chat", "c:1", status=JobStatus.RUNNING), [])
    view.write_facts()
    assert read_job_facts(workspace.home.jobs / "open").status == "running"
    files = {name: workspace.home.jobs / name / "job.json" for name in ("job1", "open")}
    for file in files.values():
        file.unlink()
    view.write_facts()
    assert {name: file.exists() for name, file in files.items()} == {"job1": False, "open": True}


def test_only_what_is_new_or_has_not_ended_is_looked_at_again(
    workspace: Workspace, view: MlflowView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "PAGE", 2)
    for number in range(5):
        workspace.records.jobs.add(Job(f"past-{number}", "j", "chat", "c:1", status=JobStatus.COMPLETED), [])
    workspace.records.jobs.add(Job("open", "open", "chat", "c:1", status=JobStatus.RUNNING), [])
    view.write_facts()
    assert all((workspace.home.jobs / f"past-{number}" / "job.json").exists() for number in range(5))
    looks: list[str] = []
    steps_of = workspace.jobs.steps_of
    monkeypatch.setattr(workspace.jobs, "steps_of", lambda names: looks.extend(names) or steps_of(names))
    view.write_facts()
    assert set(looks) == {"open"}
    workspace.records.jobs.add(Job("new", "new", "chat", "c:1", status=JobStatus.COMPLETED), [])
    workspace.records.jobs.update(replace(workspace.records.jobs.get("open"), status=JobStatus.FAILED))
    view.write_facts()
    assert read_job_facts(workspace.home.jobs / "new").status == "completed", "also one that ended before it was seen"
    assert read_job_facts(workspace.home.jobs / "open").status == "failed"
    looks.clear()
    view.write_facts()
    assert looks == []


def test_a_look_asks_the_database_as_often_however_many_jobs_are_open(workspace: Workspace, view: MlflowView) -> None:
    counts = []
    for numbers in (range(2), range(2, 20)):
        for number in numbers:
            workspace.records.jobs.add(Job(f"open-{number}", "open", "chat", "c:1", status=JobStatus.RUNNING), [])
        view.write_facts()
        with statements_sent() as statements:
            view.write_facts()
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 6


def test_what_the_server_before_has_written_of_past_jobs_is_not_written_again(workspace: Workspace) -> None:
    MlflowView(workspace.home, workspace.jobs).write_facts()
    file = workspace.home.jobs / "job1" / "job.json"
    before = file.stat().st_mtime_ns
    looks: list[str] = []
    view = MlflowView(workspace.home, workspace.jobs)
    steps_of = workspace.jobs.steps_of
    workspace.jobs.steps_of = lambda names: looks.extend(names) or steps_of(names)  # type: ignore[method-assign, func-returns-value]
    view.write_facts()
    assert (looks, file.stat().st_mtime_ns) == ([], before)


def test_a_process_that_ends_before_it_listens_is_told_with_its_log(
    workspace: Workspace, view: MlflowView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child.sys, "executable", "/bin/false")
    with pytest.raises(ServerFailed, match=r"MLflow didn't start\. .*logs/mlflow\.log says why\."):
        view.address()
    token = workspace.home.root / "mlflow" / "token"
    assert (len(token.read_text()) >= 32, stat.S_IMODE(token.stat().st_mode)) == (True, 0o600)
    assert read_job_facts(workspace.home.jobs / "job1").name == "job1", "facts are there before the process is"


def test_until_it_is_asked_for_the_loop_starts_and_writes_nothing(workspace: Workspace, view: MlflowView) -> None:
    stop = threading.Event()
    stop.set()
    view.run(stop)
    assert not (workspace.home.root / "mlflow").exists()
    assert not (workspace.home.jobs / "job1" / "job.json").exists()


def test_a_look_reads_what_has_changed_and_no_past_job_also_after_a_restart(workspace: Workspace) -> None:
    add_past_jobs(workspace.database, workspace.home, 500, has_files=False)
    (workspace.home.root / "mlflow").mkdir()
    MlflowView(workspace.home, workspace.jobs).write_facts()
    assert all((workspace.home.jobs / f"past-{number}" / "job.json").exists() for number in (0, 250, 499))
    view = MlflowView(workspace.home, workspace.jobs)
    for _ in range(3):
        with rows_read() as rows:
            view.write_facts()
        assert (rows["job"], rows["step"]) == (1, 0)
    workspace.records.jobs.add(Job("new", "new", "chat", "c:1", status=JobStatus.RUNNING), [])
    with rows_read() as rows:
        view.write_facts()
    assert rows["job"] <= PAGE + 5 and read_job_facts(workspace.home.jobs / "new").status == "running"


def test_the_newest_jobs_are_shown_first_and_a_server_that_starts_goes_on_with_the_others(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "PAGE", 10)
    add_past_jobs(workspace.database, workspace.home, 35, has_files=False)
    (workspace.home.root / "mlflow").mkdir()

    def written() -> int:
        return len(list(workspace.home.jobs.glob("*/job.json")))

    MlflowView(workspace.home, workspace.jobs).write_new_facts()
    assert written() == 10 and (workspace.home.jobs / "past-34" / "job.json").exists()
    view = MlflowView(workspace.home, workspace.jobs)
    workspace.records.jobs.delete("past-34")
    workspace.records.jobs.add(Job("new", "new", "chat", "c:1", status=JobStatus.COMPLETED), [])
    view.write_new_facts()
    assert written() == 11
    view.write_facts()
    assert written() == 37, "those of 35 past jobs, of job1, and of the new one"
