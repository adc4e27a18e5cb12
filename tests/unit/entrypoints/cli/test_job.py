"""Tests of `mafunzo job` over homes in which jobs wait, run and have ended."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.job import Job, JobStatus, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.tracking.step_folder import SAVES_FIRST
from tests.support.command_line import Shell
from tests.support.finished_job import add_finished_job

BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPEC = StepSpec("train", "train:1", "sha256:0", "true", outputs={"out": "uri_folder"})
OUTPUTS = {"model": StepOutputInput("train", "out")}


def add(
    workspace: Workspace, name: str, status: JobStatus = JobStatus.QUEUED, step: Step | None = None, **more: object
) -> Job:
    job = replace(Job(name, f"what {name} is", "chat", "train:1", status=status), **more)  # type: ignore[arg-type]
    return workspace.records.jobs.add(job, [step or Step(name, SPEC)])


@pytest.fixture
def finished(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A job, `done`, whose one step has written an output, a log and metrics."""
    (source := tmp_path / "written").mkdir()
    (source / "weights").write_bytes(b"x" * 2000)
    stored = workspace.artifacts.put(source)
    step = Step("done", SPEC, StepStatus.COMPLETED, 1, outputs={"out": stored}, started_at=BEGAN, reason="it is new")
    step = replace(step, ended_at=BEGAN + timedelta(seconds=12.5))
    add(workspace, "done", JobStatus.COMPLETED, step, outputs=OUTPUTS, ended_at=datetime.now(UTC) + timedelta(days=1))
    (folder := workspace.home.jobs / "done" / "train" / "1").mkdir(parents=True)
    (folder / "log.txt").write_text("line 1\nline 2\n")
    lines = [{"time": 1, "step": 1, "loss": 3.0, "lr": 0.1}, {"time": 2, "step": 2, "loss": 2.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workspace


def test_without_jobs_the_list_says_how_to_start_one(shell: Shell) -> None:
    assert shell("job", "list") == "No jobs. Start one with: mafunzo finetune\n"
    assert shell("job", "list", "--json") == "[]\n"


def test_waiting_jobs_are_listed_with_their_place_in_the_queue(shell: Shell, workspace: Workspace) -> None:
    add(workspace, "low")
    add(workspace, "high", priority=5)
    add(workspace, "runs", JobStatus.RUNNING)
    header, *rows = shell("job", "list").splitlines()
    assert header.split() == ["name", "status", "place", "priority", "what", "created"]
    table = {row.split()[0]: row.split()[1:4] for row in rows}
    assert table["high"] == ["queued", "1", "5"]
    assert table["low"] == ["queued", "2", "0"]
    assert table["runs"][:2] == ["running", "0"]
    places = {job["name"]: job["place"] for job in json.loads(shell("job", "list", "--json"))}
    assert places == {"high": 1, "low": 2, "runs": None}


def test_a_job_is_shown_with_its_steps_and_why_each_ran(shell: Shell, finished: Workspace) -> None:
    told = shell("job", "show", "done")
    facts = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in told.splitlines()[:5]}
    assert (facts["name"], facts["status"], facts["what"]) == ("done", "completed", "what done is")
    assert "place in the queue" not in told
    [row] = [line for line in told.splitlines() if line.startswith("train ")]
    assert row.split("  ")[:1] == ["train"]
    for text in ("completed", "12.5 s", "it is new", str(finished.home.jobs / "done" / "train" / "1")):
        assert text in row
    body = json.loads(shell("job", "show", "done", "--json"))
    assert (body["job"]["name"], body["job"]["place"], body["steps"][0]["status"]) == ("done", None, "completed")


def test_a_job_that_waits_is_shown_with_its_place(shell: Shell, workspace: Workspace) -> None:
    add(workspace, "waits")
    assert "place in the queue  1\n" in shell("job", "show", "waits")
    assert json.loads(shell("job", "show", "waits", "--json"))["job"]["place"] == 1


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        pytest.param("it has no memory", "it has no memory", id="whole"),
        pytest.param("exit code 3; the log ends with:", "exit code 3.", id="without the announcement of a log"),
    ],
)
def test_why_a_job_failed_is_shown(message: str, shown: str, shell: Shell, workspace: Workspace) -> None:
    step = Step("bad", SPEC, StepStatus.FAILED, 1, error={"message": message}, reason="it is new")
    add(workspace, "bad", JobStatus.FAILED, step, error={"message": message})
    told = shell("job", "show", "bad")
    assert told.count(shown) == 2
    assert "the log ends" not in told
    assert "it is new" not in told


def test_the_logs_of_all_steps_or_of_one_are_printed(shell: Shell, finished: Workspace) -> None:
    assert shell("job", "logs", "done") == "--- train\nline 1\nline 2\n"
    assert shell("job", "logs", "done", "--step", "train") == "--- train\nline 1\nline 2\n"
    assert shell("job", "logs", "done", "--step", "tran", code=2) == (
        "error: Job done has no step 'tran'. It has: train.\n"
    )


def test_of_each_metric_the_last_value_is_shown_and_every_line_in_json(shell: Shell, finished: Workspace) -> None:
    rows = [line.split() for line in shell("job", "metrics", "done").splitlines()]
    assert rows == [["step", "metric", "value", "at"], ["train", "loss", "2.0", "2"], ["train", "lr", "0.1", "1"]]
    lines = json.loads(shell("job", "metrics", "done", "--json"))["train"]
    assert [line["step"] for line in lines] == [1, 2]


def test_a_finished_fine_tuning_shows_its_metrics(shell: Shell, workspace: Workspace) -> None:
    add_finished_job(workspace.home)
    assert ["finetune", "loss", "2.7", "3"] in [line.split() for line in shell("job", "metrics", "job1").splitlines()]


def test_a_job_without_metrics_says_so(shell: Shell, workspace: Workspace) -> None:
    add(workspace, "waits")
    assert shell("job", "metrics", "waits") == "No metrics yet.\n"


def test_a_job_that_has_ended_streams_what_happened(shell: Shell, finished: Workspace) -> None:
    assert shell("job", "stream", "done").splitlines()[-2:] == [
        "step train completed in 12.5 s: it is new",
        "job done completed",
    ]
    events = [json.loads(line) for line in shell("job", "stream", "done", "--json").splitlines()]
    assert [(event["event"], event.get("text")) for event in events] == [
        ("line", "line 1"),
        ("line", "line 2"),
        ("step", "it is new"),
        ("job", "completed"),
    ]


def test_a_job_is_asked_to_end_by_its_server(shell: Shell, workspace: Workspace, starts: list[Path]) -> None:
    add(workspace, "waits")
    assert shell("job", "cancel", "waits") == "Asked for waits to end\n"
    assert workspace.jobs.get("waits").job.is_cancel_requested
    assert starts == [shell.home]


def test_a_job_is_asked_to_save_first(shell: Shell, workspace: Workspace, starts: list[Path]) -> None:
    add(workspace, "waits")
    told = "Asked for waits to save and end. Go on with it: mafunzo job resume waits\n"
    assert shell("job", "cancel", "waits", "--save") == told
    assert workspace.jobs.get("waits").job.is_cancel_requested
    assert (workspace.home.jobs / "waits" / SAVES_FIRST).exists()


def test_a_job_that_has_ended_is_not_asked_to_end(shell: Shell, finished: Workspace, starts: list[Path]) -> None:
    assert shell("job", "cancel", "done") == "done has ended already: completed\n"
    assert json.loads(shell("job", "cancel", "done", "--json"))["is_cancel_requested"] is False
    assert starts == []


def test_outputs_are_written_as_plain_files(shell: Shell, finished: Workspace, tmp_path: Path) -> None:
    assert shell("job", "download", "done", "--to", tmp_path / "to") == f"{tmp_path / 'to' / 'model'}\n"
    assert (tmp_path / "to" / "model" / "weights").read_bytes() == b"x" * 2000
    told = shell("job", "download", "done", "--to", tmp_path / "other", "--output", "model", "--json")
    assert json.loads(told) == {"folders": [str(tmp_path / "other" / "model")]}
    told = shell("job", "download", "done", "--to", tmp_path / "third", "--output", "modl", code=2)
    assert told == "error: Job done has no output 'modl'. It has: model.\n"


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        pytest.param(OUTPUTS, "Job waits is queued, and none of its outputs is there. What it printed:", id="not yet"),
        pytest.param({}, "Job waits has no outputs. What it printed: mafunzo job logs waits", id="none ever"),
    ],
)
def test_where_nothing_is_written_the_reason_is_told(
    outputs: dict[str, StepOutputInput], why: str, shell: Shell, workspace: Workspace, tmp_path: Path
) -> None:
    add(workspace, "waits", outputs=outputs)
    assert why in shell("job", "download", "waits", "--to", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_job_is_deleted_and_frees_its_bytes(shell: Shell, finished: Workspace) -> None:
    told = json.loads(shell("job", "delete", "done", "--json"))
    assert told["deleted"] == "done"
    assert told["freed_bytes"] >= 2000
    assert not (finished.home.jobs / "done").exists()
    assert shell("job", "show", "done", code=2).startswith("error: No job 'done'.")


def test_a_job_that_a_model_came_from_is_deleted_by_force_only(shell: Shell, finished: Workspace) -> None:
    finished.models.register("done", output="model", name="tuned")
    told = shell("job", "delete", "done", code=3)
    assert told == "error: The lineage of tuned:1 leads to job done. Delete that first, or pass --force.\n"
    assert shell("job", "delete", "done", "--force").startswith("Deleted job done. Freed ")


def test_a_job_that_waits_is_not_deleted(shell: Shell, workspace: Workspace) -> None:
    add(workspace, "waits")
    assert "waits" in shell("job", "delete", "waits", code=3)
    assert workspace.jobs.has("waits")


@pytest.mark.parametrize(
    "words", [["show"], ["stream"], ["logs"], ["metrics"], ["cancel"], ["download", "--to", "x"], ["delete"]]
)
def test_an_unknown_job_is_refused_with_near_names(words: list[str], shell: Shell, workspace: Workspace) -> None:
    add(workspace, "bright_cat")
    told = shell("job", words[0], "bright_ct", *words[1:], code=2)
    assert told.startswith("error: No job 'bright_ct'. Did you mean bright_cat?")


def test_jobs_are_listed_in_pages_and_it_says_how_to_see_more(shell: Shell, workspace: Workspace) -> None:
    for number in range(4):
        add(workspace, f"job-{number}")
    *page, more = shell("job", "list", "--limit", "3").splitlines()
    assert [row.split()[0] for row in page[1:]] == ["job-3", "job-2", "job-1"]
    assert more == "There are more: mafunzo job list --before job-1, or all: mafunzo job list --all"
    _, row = shell("job", "list", "--limit", "3", "--before", "job-1").splitlines()
    assert row.split()[0] == "job-0"
    assert shell("job", "list", "--before", "job-0") == "No job is older than job-0.\n"
    assert [job["name"] for job in json.loads(shell("job", "list", "--json", "--limit", "1"))] == ["job-3"]


def test_the_last_lines_of_a_log_are_printed_alone(shell: Shell, finished: Workspace) -> None:
    assert shell("job", "logs", "done") == "--- train\nline 1\nline 2\n"
    assert shell("job", "logs", "done", "--tail", "1") == "--- train\nline 2\n"
    assert "--tail" in shell("job", "logs", "done", "--tail", "0", code=2)
