"""Tests of `mafunzo.entrypoints.azure.output`: what is shown of a job that has ended."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.entities.job import DEFAULT_OUTPUT, Job, JobStatus, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.entrypoints.azure.output import publish
from mafunzo.entrypoints.azure.wire.envelope import ARTIFACT_CONTAINER, CONTAINER
from mafunzo.errors import JobFailed

SPEC = StepSpec("s", "c:1", "code", "false", outputs={"o": "uri_folder", "f": "uri_file", DEFAULT_OUTPUT: "uri_folder"})


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def failed(workspace: Workspace, spec: StepSpec = SPEC) -> JobHandle:
    """Return a job whose one step failed after it had written a part of its outputs."""
    job = Job("j", "j", "e", "c:1", outputs={"out": StepOutputInput("s", "o")}, status=JobStatus.FAILED)
    workspace.records.jobs.add(job, [Step("j", spec, StepStatus.FAILED, attempt=1)])
    folder = workspace.home.jobs / "j" / "s" / "1"
    for name in ("o", DEFAULT_OUTPUT):
        (folder / "outputs" / name).mkdir(parents=True)
        (folder / "outputs" / name / "part").write_text(name)
    (folder / "log.txt").write_text("bye")
    return workspace.jobs.get("j")


def shown(workspace: Workspace) -> list[str]:
    return [blob.name for container in (CONTAINER, ARTIFACT_CONTAINER) for blob in workspace.blobs.list(container)]


def test_what_a_command_had_written_when_it_failed_is_shown_but_is_no_output(workspace: Workspace) -> None:
    handle = failed(workspace)
    assert (publish(workspace, "j"), publish(workspace, "j", "s")) == (("out",), ("o",))
    assert shown(workspace) == [
        "azureml/j.s/o/part",
        "azureml/j/out/part",
        "ExperimentRun/dcid.j.s/outputs/part",
        "ExperimentRun/dcid.j.s/user_logs/std_log.txt",
        "ExperimentRun/dcid.j/outputs/part",
        "ExperimentRun/dcid.j/user_logs/std_log.txt",
    ]
    with pytest.raises(JobFailed):
        handle.output_artifact("out")
    workspace.jobs.delete("j")
    assert shown(workspace) == []


def test_what_cannot_be_stored_hides_nothing_else(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    handle = failed(workspace)
    (handle.folder("s") / "outputs" / "o" / "away").symlink_to("/etc/hostname")
    assert publish(workspace, "j") == ()
    assert shown(workspace) == ["ExperimentRun/dcid.j/outputs/part", "ExperimentRun/dcid.j/user_logs/std_log.txt"]
    assert "What j/s left in" in caplog.text


def test_of_a_step_of_our_own_that_failed_the_log_is_shown(workspace: Workspace) -> None:
    failed(workspace, replace(SPEC, is_trusted=True))
    assert publish(workspace, "j") == ()
    assert shown(workspace) == ["ExperimentRun/dcid.j/user_logs/std_log.txt"]


def test_what_a_command_wrote_to_its_logs_is_shown_and_named(workspace: Workspace) -> None:
    handle = failed(workspace)
    (handle.folder("s") / "logs" / "deep").mkdir(parents=True)
    (handle.folder("s") / "logs" / "deep" / "events").write_text("e")
    publish(workspace, "j")
    assert "ExperimentRun/dcid.j/logs/deep/events" in shown(workspace)
    stored = workspace.artifacts.put(handle.folder("s") / "outputs" / DEFAULT_OUTPUT)
    step = replace(handle.step("s"), status=StepStatus.COMPLETED, outputs={DEFAULT_OUTPUT: stored})
    workspace.records.steps.update(step)
    files = workspace.artifacts.manifest(handle.output_artifact("artifacts", "logs"))
    assert [file.path for file in files] == ["deep/events"]


def test_logs_that_cannot_be_stored_hide_nothing_else(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    handle = failed(workspace)
    (handle.folder("s") / "logs").mkdir()
    (handle.folder("s") / "logs" / "away").symlink_to("/etc/hostname")
    publish(workspace, "j")
    assert "ExperimentRun/dcid.j/outputs/part" in shown(workspace) and "What j/s left in" in caplog.text


def test_the_log_of_a_step_that_has_ended_is_shown_without_a_second_copy(workspace: Workspace) -> None:
    handle = failed(workspace)
    log = handle.folder("s") / "log.txt"
    publish(workspace, "j")
    (blob,) = (one for one in workspace.blobs.list(ARTIFACT_CONTAINER) if one.name.endswith("std_log.txt"))
    assert workspace.blobs.path(blob).samefile(log) and log.read_text() == "bye"
