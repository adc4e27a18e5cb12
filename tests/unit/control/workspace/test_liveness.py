"""Tests of `mafunzo.control.workspace.liveness`: who waits for a server that has stopped is told, and what it left."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.control.workspace.liveness import server_is_there
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.job import Job, JobStatus, Step, StepSpec, StepStatus
from mafunzo.errors import ServerFailed
from mafunzo.tracking.step_folder import StepFolder

STEPS = [
    Step("j", StepSpec("first", "c:1", "sha256:0", "true"), StepStatus.COMPLETED, 1),
    Step("j", StepSpec("train", "c:1", "sha256:0", "true"), StepStatus.WAITING, 2, reason="attempt 2 was cut off"),
    Step("j", StepSpec("last", "c:1", "sha256:0", "true")),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def job(workspace: Workspace) -> JobHandle:
    workspace.records.jobs.add(Job("j", "j", "e", "c:1", status=JobStatus.RUNNING), STEPS)
    return workspace.jobs.get("j")


def folder(workspace: Workspace, attempt: int) -> StepFolder:
    return StepFolder.of(workspace.home.jobs, "j", "train", attempt)


def told(job: JobHandle) -> tuple[str, ...]:
    with pytest.raises(ServerFailed) as stopped:
        job.wait()
    commands = re.findall(r"MAFUNZO_HOME=(\S+) mafunzo ([a-z -]+)", stopped.value.message)
    assert commands == [(str(job._services.home.root), words) for words in ("up --detach", "job stream j")]
    assert stopped.value.exit_code == 1
    return stopped.value.faults


def test_waiting_without_a_server_ends_and_says_what_it_left(workspace: Workspace, job: JobHandle) -> None:
    assert told(job) == (
        "Step 'first' is completed.",
        "Step 'train' was cut off in attempt 2 and goes on from its beginning.",
        "Step 'last' is waiting.",
    )
    for attempt, step in ((1, 40), (1, 120), (2, 80)):
        checkpoint = folder(workspace, attempt).outputs / "model" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").touch()
    assert told(job)[1].endswith("goes on from its checkpoint of step 120.")


def test_a_step_that_outlives_its_server_is_told_so(workspace: Workspace, job: JobHandle) -> None:
    """As after a kill of the server, which ends no step."""
    running = replace(STEPS[1], status=StepStatus.RUNNING, attempt=3)
    workspace.records.steps.update(running)
    launcher, place = LocalLauncher(), folder(workspace, 3).path
    launcher.start("sleep 600", place, {})
    assert told(job)[1] == "Step 'train' still runs; the next server takes it over."
    launcher.kill(place)
    assert told(job)[1].startswith("Step 'train' has ended meanwhile; the next server stores what it wrote")


def test_following_without_a_server_shows_what_there_is_and_ends(workspace: Workspace, job: JobHandle) -> None:
    events = job.events()
    assert next(events).text == "running"
    with pytest.raises(ServerFailed, match="has stopped, and job j is running"):
        list(events)


def test_a_job_that_has_ended_needs_no_server(workspace: Workspace, job: JobHandle) -> None:
    workspace.records.jobs.update(replace(job.job, status=JobStatus.COMPLETED))
    assert job.wait() is job and list(job.events())[-1].status == "completed"


def test_a_server_that_is_just_starting_or_ending_is_there(workspace: Workspace) -> None:
    assert not server_is_there(workspace.home)
    with workspace.home.lock():
        assert server_is_there(workspace.home)


def test_waiting_for_a_deployment_without_a_server_ends(workspace: Workspace) -> None:
    workspace.records.endpoints.add(Endpoint("chat"), ("a", "b"))
    workspace.records.deployments.add(Deployment("chat", "blue", "m:1", "sha256:0"))
    with pytest.raises(
        ServerFailed, match=r"deployment chat/blue is waiting\. It goes on when the server starts again"
    ):
        workspace.endpoints.get("chat").wait("blue", 600)
