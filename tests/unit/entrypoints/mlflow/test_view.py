"""MLflow as a view of jobs: with MLflow's own client on a real database, and once as the process that it is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from mafunzo.entrypoints.mlflow import view as view_module
from mafunzo.entrypoints.mlflow.job_facts import JobFacts, StepFacts, write_job_facts
from mafunzo.entrypoints.mlflow.store import RunStore
from mafunzo.entrypoints.mlflow.view import View
from tests.support.waiting import LIMIT_S, until


def write_metrics(jobs: Path, step: str, *lines: dict[str, object], attempt: int = 1, end: str = "\n") -> None:
    folder = jobs / "job1" / step / str(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    if not (jobs / "job1" / "job.json").exists():
        write_job_facts(jobs, JobFacts("job1", "mafunzo"))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + end for line in lines))


def runs(client: MlflowClient, experiment: str = "mafunzo") -> dict[str, Run]:
    entry = client.get_experiment_by_name(experiment)
    return {run.data.tags["mafunzo.key"]: run for run in client.search_runs([entry.experiment_id])}


def facts(**changes: object) -> JobFacts:
    step = StepFacts("finetune", "running", attempt=1, started_at=100.0, parameters={"learning_rate": 0.0002})
    whole: dict[str, object] = {
        "name": "job1",
        "experiment": "chat",
        "display_name": "tiny on chitchat",
        "started_at": 99.0,
        "created_by": "ada",
        "parameters": {"model": "tiny-llama"},
        "tags": {"mafunzo.model": "tiny-llama:1"},
        "steps": (step,),
    }
    return JobFacts(**(whole | changes))  # type: ignore[arg-type]


def test_a_job_is_a_run_and_each_step_a_run_under_it_with_parameters_and_tags(
    store: RunStore, client: MlflowClient, tmp_path: Path
) -> None:
    write_job_facts(tmp_path / "jobs", facts())
    write_metrics(tmp_path / "jobs", "finetune", {"time": 101.5, "step": 10, "loss": 2.5, "learning_rate": 0.0001})
    assert View(tmp_path / "jobs", tmp_path / "artifacts", store).tick() == 1
    runs_by_key = runs(client, "chat")
    job, step = runs_by_key["job1"], runs_by_key["job1/finetune/1"]
    assert step.data.tags["mlflow.parentRunId"] == job.info.run_id
    assert step.data.tags["mafunzo.job"] == job.data.tags["mafunzo.job"] == "job1"
    assert (job.info.run_name, step.info.run_name) == ("tiny on chitchat", "finetune")
    assert job.data.params == {"model": "tiny-llama"}
    assert step.data.params == {"learning_rate": "0.0002"}
    assert job.data.tags["mafunzo.model"] == "tiny-llama:1"
    assert job.data.tags["mlflow.user"] == "ada"
    point = client.get_metric_history(step.info.run_id, "loss")[0]
    assert (point.value, point.step, point.timestamp) == (2.5, 10, 101_500)
    assert client.get_metric_history(job.info.run_id, "loss")[0].value == 2.5


def test_lines_are_taken_in_once_however_often_it_looks_and_starts(
    store: RunStore, client: MlflowClient, tmp_path: Path
) -> None:
    write_metrics(tmp_path / "jobs", "finetune", *({"time": n, "step": n, "loss": 1 / n} for n in range(1, 6)))
    view = View(tmp_path / "jobs", tmp_path / "artifacts", store)
    assert [view.tick(), view.tick()] == [5, 0]
    write_metrics(tmp_path / "jobs", "finetune", {"time": 6, "step": 6, "loss": 0.1})
    again = View(tmp_path / "jobs", tmp_path / "artifacts", store)
    assert [again.tick(), again.tick()] == [1, 0]
    history = client.get_metric_history(runs(client)["job1/finetune/1"].info.run_id, "loss")
    assert sorted(point.step for point in history) == [1, 2, 3, 4, 5, 6]
    assert len(runs(client)) == 2


def test_a_crash_before_the_offset_was_kept_repeats_no_point(
    store: RunStore, client: MlflowClient, tmp_path: Path
) -> None:
    write_metrics(tmp_path / "jobs", "finetune", *({"time": n, "step": n, "loss": 1 / n} for n in range(1, 6)))
    View(tmp_path / "jobs", tmp_path / "artifacts", store).tick()
    run = runs(client)["job1/finetune/1"].info.run_id
    client.set_tag(run, "mafunzo.offset.finetune.1", "0")
    assert View(tmp_path / "jobs", tmp_path / "artifacts", store).tick() == 5
    assert len(client.get_metric_history(run, "loss")) == 5


def test_a_line_that_is_still_being_written_waits(store: RunStore, client: MlflowClient, tmp_path: Path) -> None:
    write_metrics(tmp_path / "jobs", "finetune", {"time": 1, "step": 1, "loss": 2.0})
    write_metrics(tmp_path / "jobs", "finetune", {"time": 2, "step": 2, "loss": 1.0}, end="")
    view = View(tmp_path / "jobs", tmp_path / "artifacts", store)
    assert view.tick() == 1
    with (tmp_path / "jobs" / "job1" / "finetune" / "1" / "metrics.jsonl").open("a") as file:
        file.write("\n")
    assert view.tick() == 1


def test_values_that_are_no_numbers_are_left_out(store: RunStore, client: MlflowClient, tmp_path: Path) -> None:
    write_metrics(tmp_path / "jobs", "finetune", {"time": 1, "step": 1, "loss": None, "epoch": 0.5})
    View(tmp_path / "jobs", tmp_path / "artifacts", store).tick()
    assert runs(client)["job1/finetune/1"].data.metrics == {"epoch": 0.5}


def test_what_a_users_program_writes_that_is_no_metric_is_passed_over(
    store: RunStore, client: MlflowClient, tmp_path: Path
) -> None:
    write_metrics(tmp_path / "jobs", "finetune", {"loss": 3.0})
    with (tmp_path / "jobs" / "job1" / "finetune" / "1" / "metrics.jsonl").open("ab") as file:
        file.write(b'loss is 2\n[1]\n\n\xff\n{"step": "late", "loss": 2}\n{"step": 1e999, "loss": 1, "big": 1')
        file.write(b"0" * 400 + b"}\n")
    assert View(tmp_path / "jobs", tmp_path / "artifacts", store).tick() == 3
    history = client.get_metric_history(runs(client)["job1/finetune/1"].info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(0, 1.0), (0, 2.0), (0, 3.0)]


def test_each_attempt_of_a_step_is_a_run_of_its_own(store: RunStore, client: MlflowClient, tmp_path: Path) -> None:
    step = StepFacts("finetune", "completed", attempt=2)
    write_job_facts(tmp_path / "jobs", facts(status="completed", steps=(step,)))
    for attempt in (1, 2):
        write_metrics(tmp_path / "jobs", "finetune", {"time": 1, "step": 1, "loss": attempt}, attempt=attempt)
    View(tmp_path / "jobs", tmp_path / "artifacts", store).tick()
    runs_by_key = runs(client, "chat")
    assert runs_by_key["job1/finetune/1"].info.status == "FAILED"
    assert runs_by_key["job1/finetune/2"].info.status == "FINISHED"
    assert runs_by_key["job1/finetune/2"].info.run_name == "finetune (attempt 2)"


@pytest.mark.parametrize(
    ("status", "expected"),
    [("completed", "FINISHED"), ("failed", "FAILED"), ("canceled", "KILLED"), ("queued", "SCHEDULED")],
)
def test_a_change_of_status_reaches_the_run(
    status: str, expected: str, store: RunStore, client: MlflowClient, tmp_path: Path
) -> None:
    write_job_facts(tmp_path / "jobs", facts())
    view = View(tmp_path / "jobs", tmp_path / "artifacts", store)
    view.tick()
    assert runs(client, "chat")["job1"].info.status == "RUNNING"
    write_job_facts(tmp_path / "jobs", facts(status=status, ended_at=200.0))
    view.tick()
    run = runs(client, "chat")["job1"].info
    assert run.status == expected
    assert run.end_time == (None if status == "queued" else 200_000)


def test_a_job_whose_facts_are_still_to_come_waits_for_them(
    store: RunStore, client: MlflowClient, tmp_path: Path
) -> None:
    write_metrics(tmp_path / "jobs", "finetune", {"time": 1, "step": 1, "loss": 2.0})
    (tmp_path / "jobs" / "job1" / "job.json").unlink()
    view = View(tmp_path / "jobs", tmp_path / "artifacts", store)
    assert view.tick() == 0
    write_job_facts(tmp_path / "jobs", facts())
    assert view.tick() == 1
    assert sorted(runs(client, "chat")) == ["job1", "job1/finetune/1"]


def test_the_runs_of_a_deleted_job_go_with_it_and_its_name_may_come_again(
    store: RunStore, client: MlflowClient, tmp_path: Path
) -> None:
    user_run_id = client.create_run("0").info.run_id
    write_job_facts(tmp_path / "jobs", facts())
    write_metrics(tmp_path / "jobs", "finetune", {"time": 1, "step": 1, "loss": 2.0})
    view = View(tmp_path / "jobs", tmp_path / "artifacts", store)
    view.tick()
    file = tmp_path / "artifacts" / client.get_run("job1").info.experiment_id / "job1" / "artifacts" / "a.txt"
    file.parent.mkdir(parents=True)
    file.write_text("of the first")
    shutil.rmtree(tmp_path / "jobs" / "job1")
    view.tick()
    assert runs(client, "chat") == {}
    assert not file.exists()
    assert client.get_run(user_run_id).info.lifecycle_stage == "active"
    write_job_facts(tmp_path / "jobs", facts())
    view.tick()
    assert list(runs(client, "chat")) == ["job1"]


@pytest.fixture
def home(empty_database: Path, tmp_path: Path) -> Path:
    (tmp_path / "home" / "mlflow").mkdir(parents=True)
    shutil.copy(empty_database, tmp_path / "home" / "mlflow" / "mlflow.db")
    write_metrics(tmp_path / "home" / "jobs", "finetune", *({"time": n, "step": n, "loss": 1 / n} for n in range(1, 6)))
    return tmp_path / "home"


@pytest.fixture
def children(home: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start(home: Path, children: list[subprocess.Popen[bytes]], *more: str) -> str:
    """Start the process, and return its address once it has taken in what is there."""
    port_file = home / "port"
    port_file.unlink(missing_ok=True)
    argv = [
        sys.executable,
        "-m",
        "mafunzo.entrypoints.mlflow",
        "--home",
        str(home),
        "--port-file",
        str(port_file),
        "--every",
        "0.1",
    ]
    children.append(subprocess.Popen([*argv, *more], env={**os.environ, "OMP_NUM_THREADS": "1"}))
    until(lambda: port_file.exists() or children[-1].poll() is not None)
    assert port_file.exists()
    return f"http://127.0.0.1:{port_file.read_text()}"


def points(address: str) -> list[int]:
    """Return the steps of the loss that MLflow's own API gives for the finetune step, waiting for all five."""
    client = MlflowClient(tracking_uri=address)

    def points() -> list[int]:
        experiment = client.get_experiment_by_name("mafunzo")
        steps = client.search_runs([experiment.experiment_id], "tags.`mafunzo.step` = 'finetune'") if experiment else []
        return sorted(p.step for run in steps for p in client.get_metric_history(run.info.run_id, "loss"))

    until(lambda: len(points()) >= 5)
    return points()


@pytest.mark.slow
def test_the_process_serves_api_and_pages_in_one_small_process_and_survives_a_kill(
    home: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    address = start(home, children)
    assert points(address) == [1, 2, 3, 4, 5]
    with urllib.request.urlopen(address) as page:
        assert b"<!doctype html" in page.read()[:200].lower()
    process = psutil.Process(children[0].pid)
    assert process.children(recursive=True) == []
    assert process.memory_info().rss < 600e6
    listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    children[0].send_signal(signal.SIGKILL)
    children[0].wait()
    address = start(home, children)
    assert points(address) == [1, 2, 3, 4, 5]
    children[1].send_signal(signal.SIGTERM)
    assert children[1].wait(LIMIT_S) in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_the_process_ends_when_its_parent_is_gone(home: Path, children: list[subprocess.Popen[bytes]]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    start(home, children, "--parent", str(parent.pid))
    parent.kill()
    parent.wait()
    assert children[0].wait(LIMIT_S) == 0


def test_the_newest_past_jobs_come_first_and_each_is_looked_at_until_it_is_in_and_never_again(
    store: RunStore, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_module, "BACKFILL", 2)
    jobs, reads = tmp_path / "jobs", []
    read = view_module.read_job_facts
    monkeypatch.setattr(view_module, "read_job_facts", lambda folder: reads.append(folder.name) or read(folder))
    for number in range(5):
        write_job_facts(jobs, facts(name=f"past-{number}", status="completed", ended_at=200.0 + number, steps=()))
    os.utime(jobs, (9, 9))
    view = View(jobs, tmp_path / "artifacts", store)
    looks = []
    for _ in range(4):
        view.tick()
        looks.append(sorted(reads))
        reads.clear()
    assert looks == [["past-3", "past-4"], ["past-1", "past-2"], ["past-0"], []]
    again = View(jobs, tmp_path / "artifacts", store)
    again.tick()
    assert reads == [] and len(runs(client, "chat")) == 5
    write_job_facts(jobs, facts(name="new"))
    for _ in range(2):
        again.tick()
    assert reads == ["new"] and runs(client, "chat")["new"].info.status == "RUNNING"


def test_a_job_that_was_deleted_while_nobody_looked_goes_from_mlflow(
    store: RunStore, client: MlflowClient, tmp_path: Path
) -> None:
    for name in ("job1", "job2"):
        write_job_facts(tmp_path / "jobs", facts(name=name, status="completed"))
    View(tmp_path / "jobs", tmp_path / "artifacts", store).tick()
    shutil.rmtree(tmp_path / "jobs" / "job1")
    View(tmp_path / "jobs", tmp_path / "artifacts", store).tick()
    assert list(runs(client, "chat")) == ["job2"]


def test_a_job_of_the_same_name_as_a_settled_one_is_another(
    store: RunStore, client: MlflowClient, tmp_path: Path
) -> None:
    write_job_facts(tmp_path / "jobs", facts(status="completed", ended_at=200.0))
    view = View(tmp_path / "jobs", tmp_path / "artifacts", store)
    view.tick()
    (tmp_path / "jobs" / "job1").rename(tmp_path / "gone")
    write_job_facts(tmp_path / "jobs", facts(status="failed", ended_at=300.0))
    view.tick()
    assert runs(client, "chat")["job1"].info.status == "FAILED"
