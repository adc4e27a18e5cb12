"""Tests of `mafunzo.control.workspace.jobs`: finding, changing and deleting jobs, and what waiting for one raises."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.submission import Submission
from mafunzo.entities.component import Component
from mafunzo.entities.job import ArtifactInput, Job, JobStatus, Step, StepSpec, StepStatus
from mafunzo.entities.job_request import JobChange, JobRequest
from mafunzo.entities.server_address import ServerAddress
from mafunzo.errors import Conflict, GateNotPassed, JobCanceled, JobFailed, NotFound, TimedOut

TRAIN = StepSpec("train", "c:1", "sha256:0", "true")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def add(workspace: Workspace, status: JobStatus, name: str = "j.1", error: Any = None, step_error: Any = None) -> Job:
    job = Job(name, "shown", "e", "c:1", status=status, error=error)
    workspace.records.jobs.add(job, [Step(name, TRAIN, StepStatus.FAILED, 1, error=step_error)])
    return workspace.jobs.get(name).job


def test_a_job_or_its_step_is_found_by_name(workspace: Workspace) -> None:
    add(workspace, JobStatus.RUNNING)
    handle, step = workspace.jobs.find("j.1.train")
    assert (handle.name, step.name if step else "") == ("j.1", "train")
    assert workspace.jobs.find("j.1")[1] is None
    assert workspace.jobs.has("j.1") and not workspace.jobs.has("j.1.train")
    with pytest.raises(NotFound):
        workspace.jobs.find("j")


def test_what_is_said_of_a_job_changes_and_the_rest_stays(workspace: Workspace) -> None:
    before = add(workspace, JobStatus.COMPLETED)
    changed = workspace.jobs.change("j.1", JobChange(description="said", user_properties={"a": 1}))
    assert changed == replace(before, description="said", user_properties={"a": 1})
    assert workspace.jobs.get("j.1").job == changed


@pytest.mark.parametrize(
    ("status", "more", "kind", "told"),
    [
        pytest.param(JobStatus.CANCELED, {}, JobCanceled, "Job j.1 was cancelled.", id="cancelled"),
        pytest.param(
            JobStatus.FAILED,
            {
                "error": {"step": "train"},
                "step_error": {"code": "gate_not_passed", "message": "It got worse.", "faults": ["rouge1: -1"]},
            },
            GateNotPassed,
            "Step 'train' of job j.1: It got worse.\n  - rouge1: -1",
            id="as its step failed",
        ),
        pytest.param(
            JobStatus.FAILED,
            {"error": {"message": "It was lost."}},
            JobFailed,
            "Job j.1 failed: It was lost.",
            id="by itself",
        ),
        pytest.param(JobStatus.RUNNING, {}, TimedOut, "Job j.1 is still running after 0 s. It goes on.", id="too long"),
    ],
)
def test_waiting_raises_what_became_of_a_job(
    workspace: Workspace, status: JobStatus, more: dict[str, Any], kind: type[Exception], told: str
) -> None:
    add(workspace, status, **more)
    with pytest.raises(kind) as refusal:
        workspace.jobs.get("j.1").wait(timeout_s=0)
    assert str(refusal.value) == told


def test_only_a_job_that_has_ended_is_deleted_with_its_folder(workspace: Workspace) -> None:
    add(workspace, JobStatus.COMPLETED)
    add(workspace, JobStatus.RUNNING, "busy")
    (folder := workspace.home.jobs / "j.1" / "train" / "1").mkdir(parents=True)
    workspace.jobs.delete("j.1")
    assert not folder.exists() and not workspace.jobs.has("j.1")
    with pytest.raises(Conflict):
        workspace.jobs.delete("busy")


def test_a_job_whose_input_is_pruned_while_it_is_submitted_is_refused(workspace: Workspace) -> None:
    workspace.jobs._services = replace(workspace.services, up=lambda: ServerAddress(1, 0.0, 8080, "now", None))
    gone = "sha256:" + "1" * 64
    spec = StepSpec("one", "c:1", "sha256:0", "true", inputs={"rows": ArtifactInput(gone)})
    good = Submission(JobRequest("j", Component("c", "1", "command")), Job("j", "j", "e", "c:1"), [Step("j", spec)], {})
    with pytest.raises(Conflict, match="What the job reads was pruned just now") as refusal:
        workspace.jobs._enqueue(good)
    assert refusal.value.faults == (f"step 'one' reads {gone}",)
    assert not workspace.jobs.has("j")
