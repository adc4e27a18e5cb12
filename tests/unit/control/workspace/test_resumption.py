"""Tests of `mafunzo.control.workspace.resumption`: a new job that goes on with one that has ended early."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.compute.components.finetune import earlier_outputs
from mafunzo.control.workspace.resumption import RESUMED_FROM
from mafunzo.control.workspace.shipped_component import shipped
from mafunzo.entities.job import ArtifactInput, Job, JobStatus, LiteralInput, Step, StepSpec, StepStatus
from mafunzo.entities.pruning import PRUNED
from mafunzo.entities.server_address import ServerAddress
from mafunzo.errors import Conflict
from mafunzo.tracking.step_folder import StepFolder

PREPARE = StepSpec("prepare_data", "prepare_data:1", "sha256:old", "true", is_trusted=True)
FINETUNE = StepSpec(
    "finetune",
    "finetune:1",
    "sha256:old",
    "train ${{inputs.lr}}",
    inputs={"lr": LiteralInput(0.1), "rows": ArtifactInput("sha256:1", "train.jsonl")},
    outputs={"pytorch_model_folder": "custom_model"},
    is_trusted=True,
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    address = ServerAddress(1, 0.0, 8080, "now", None)
    monkeypatch.setattr(Workspace, "up", lambda self: address)
    with Workspace(tmp_path / "home") as opened:
        yield opened


def ended(workspace: Workspace, status: JobStatus = JobStatus.CANCELED, **more: object) -> None:
    job = Job("j", "shown", "e", "c:1", {"lr": 0.1}, status=status, force_rerun=True, tags={"a": "b"})
    steps = [
        Step("j", PREPARE, StepStatus.COMPLETED, 1, outputs={"prepared": "sha256:2"}),
        Step("j", FINETUNE, StepStatus.CANCELED, 2),
    ]
    workspace.records.jobs.add(replace(job, **more), steps)


def leave(workspace: Workspace, attempt: int, step: int, text: str, job: str = "j") -> None:
    folder = output(workspace, job, attempt) / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "weights").write_text(text)


def output(workspace: Workspace, job: str, attempt: int) -> Path:
    return StepFolder.of(workspace.home.jobs, job, "finetune", attempt).outputs / "pytorch_model_folder"


def test_the_new_job_is_the_ended_one_once_more(workspace: Workspace) -> None:
    ended(workspace)
    handle, newest = workspace.jobs.resume("j")
    job, steps = handle.job, handle.steps
    assert (job.name != "j", job.status, job.inputs, job.tags) == (True, JobStatus.QUEUED, {"lr": 0.1}, {"a": "b"})
    assert job.properties == {RESUMED_FROM: "j"} and newest == {}
    assert not job.force_rerun, "what was done comes from the cache"
    assert [(step.status, step.attempt) for step in steps] == [(StepStatus.WAITING, 0)] * 2
    assert steps[1].spec == replace(FINETUNE, code=shipped("finetune").code), "it runs the code that is installed now"


def test_its_first_attempt_finds_the_checkpoints_of_all_attempts(workspace: Workspace) -> None:
    ended(workspace)
    leave(workspace, 1, 20, "of attempt 1")
    leave(workspace, 1, 40, "of attempt 1")
    leave(workspace, 2, 40, "of attempt 2")
    handle, newest = workspace.jobs.resume("j")
    assert newest == {"finetune": 40}
    first = output(workspace, handle.name, 1)
    first.parent.parent.mkdir(parents=True)
    (earlier,) = earlier_outputs(first)
    texts = {path.name: (path / "weights").read_text() for path in earlier.iterdir()}
    assert texts == {"checkpoint-20": "of attempt 1", "checkpoint-40": "of attempt 2"}
    assert (earlier / "checkpoint-20" / "weights").samefile(output(workspace, "j", 1) / "checkpoint-20" / "weights")


def test_one_that_went_on_can_be_gone_on_with_before_it_had_begun(workspace: Workspace) -> None:
    ended(workspace)
    leave(workspace, 1, 20, "first")
    second, _ = workspace.jobs.resume("j")
    for step in second.steps:
        workspace.records.steps.update(replace(step, status=StepStatus.CANCELED))
    workspace.records.jobs.update(replace(second.job, status=JobStatus.CANCELED))
    third, newest = workspace.jobs.resume(second.name)
    assert newest == {"finetune": 20}
    assert (output(workspace, third.name, 0) / "checkpoint-20" / "weights").read_text() == "first"


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        pytest.param(JobStatus.RUNNING, Conflict, "Job j is running and goes on by itself", id="runs"),
        pytest.param(
            JobStatus.COMPLETED, Conflict, "Job j has completed: there is nothing to go on with", id="is done"
        ),
    ],
)
def test_only_a_job_that_ended_early_is_gone_on_with(
    workspace: Workspace, status: JobStatus, kind: type[Exception], told: str
) -> None:
    ended(workspace, status)
    with pytest.raises(kind, match=told):
        workspace.jobs.resume("j")
    assert [job.name for job in workspace.jobs.list()] == ["j"]


def test_a_job_whose_inputs_were_pruned_is_refused(workspace: Workspace) -> None:
    gone = ArtifactInput("sha256:" + "1" * 64, "train.jsonl")
    spec = replace(FINETUNE, inputs={"rows": gone})
    properties = {PRUNED: {"artifacts": "2026-03-01T10:00:00+00:00"}}
    job = Job("j", "j", "e", "c:1", status=JobStatus.FAILED, properties=properties)
    workspace.records.jobs.add(job, [Step("j", spec, StepStatus.FAILED, 1)])
    with pytest.raises(Conflict, match=r"its inputs were pruned on 2026-03-01\. Submit a new job with its files\."):
        workspace.jobs.resume("j")
