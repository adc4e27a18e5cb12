"""Tests of `mafunzo.control.workspace.job_handle`: a job's outputs, its steps' folders, and the paths in them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.job_handle import ARTIFACTS, JobHandle, find_step
from mafunzo.entities.job import DEFAULT_OUTPUT, Job, JobStatus, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.entities.sweep import BEST_TRIAL
from mafunzo.errors import JobFailed, NotFound
from mafunzo.tracking import run

FIRST = StepSpec("first", "c:1", "sha256:0", "true", outputs={"out": "uri_folder"})
LAST = StepSpec("last", "c:1", "sha256:0", "true", outputs={"out": "uri_folder", DEFAULT_OUTPUT: "uri_folder"})


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def outputs(workspace: Workspace, tmp_path: Path) -> JobHandle:
    """A job of two steps: `first` wrote the job's output `model`; `last` only `./outputs`."""
    (folder := tmp_path / "written" / "deep").mkdir(parents=True)
    (folder / "weights").write_text("w")
    (folder.parent / "note").write_text("n")
    stored = workspace.artifacts.put(folder.parent)
    steps = [
        Step("j.1", FIRST, StepStatus.COMPLETED, 2, outputs={"out": stored}),
        Step("j.1", LAST, StepStatus.COMPLETED, 1, outputs={DEFAULT_OUTPUT: stored}),
    ]
    job = Job("j.1", "j", "e", "c:1", status=JobStatus.COMPLETED)
    sources = {"model": StepOutputInput("first", "out"), "missing": StepOutputInput("last", "out")}
    workspace.records.jobs.add(replace(job, outputs=sources), steps)
    return JobHandle(workspace.services, "j.1")


def paths(workspace: Workspace, artifact: str) -> list[str]:
    return sorted(file.path for file in workspace.artifacts.manifest(artifact))


@pytest.mark.parametrize(
    ("output", "path", "step", "files"),
    [
        pytest.param("model", "", None, ["deep/weights", "note"], id="an output"),
        pytest.param("model", "deep", None, ["weights"], id="a folder of it"),
        pytest.param("model", "deep/weights", None, ["weights"], id="a file of it"),
        pytest.param("out", "", "first", ["deep/weights", "note"], id="an output of a step"),
        pytest.param(DEFAULT_OUTPUT, "", None, ["deep/weights", "note"], id="what a command wrote to ./outputs"),
        pytest.param(ARTIFACTS, "", None, ["deep/weights", "note"], id="the same by Azure's name"),
        pytest.param(ARTIFACTS, "outputs/deep", None, ["weights"], id="below it, as Azure's addresses say"),
    ],
)
def test_an_output_or_a_part_of_it_is_found(
    output: str, path: str, step: str | None, files: list[str], workspace: Workspace, outputs: JobHandle
) -> None:
    assert paths(workspace, outputs.output_artifact(output, path, step)) == files


@pytest.mark.parametrize(
    ("output", "path", "step", "text"),
    [
        pytest.param("modl", "", None, "Job j.1 has no output 'modl'. It has: model, missing.", id="unknown output"),
        pytest.param("outt", "", "first", "Job j.1 has no output 'outt'. It has: out.", id="of a step"),
        pytest.param("model", "x", None, "Output model of job j.1 has no 'x'. It has: deep/weights, note.", id="path"),
        pytest.param("model", "deep/weig", None, "has no 'deep/weig'", id="half a name"),
        pytest.param("out", "", "frst", "Job j.1 has no step 'frst'. It has: first, last.", id="unknown step"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    output: str, path: str, step: str | None, text: str, outputs: JobHandle
) -> None:
    with pytest.raises(NotFound) as refusal:
        outputs.output_artifact(output, path, step)
    assert text in refusal.value.message


def test_an_output_that_was_never_written_says_how_the_job_is(outputs: JobHandle) -> None:
    with pytest.raises(JobFailed) as refusal:
        outputs.output_artifact("missing")
    assert refusal.value.message == "Job j.1 is completed and has no missing. `mafunzo job show j.1` says why."


def test_what_is_there_is_downloaded_and_may_be_changed(outputs: JobHandle, tmp_path: Path) -> None:
    assert outputs.download(tmp_path / "to") == [tmp_path / "to" / "model"]
    (tmp_path / "to" / "model" / "note").write_text("mine")
    assert outputs.download(tmp_path / "one", "model") == [tmp_path / "one" / "model"]
    assert (tmp_path / "one" / "model" / "note").read_text() == "n"


def test_a_steps_folder_is_that_of_its_newest_attempt(workspace: Workspace, outputs: JobHandle) -> None:
    assert outputs.folder("first") == workspace.home.jobs / "j.1" / "first" / "2"
    with pytest.raises(NotFound, match=r"Job j\.1 has no step 'none'"):
        outputs.folder("none")


def test_whether_a_step_has_written_an_output_is_known(outputs: JobHandle) -> None:
    assert outputs.has(StepOutputInput("first", "out"))
    assert not outputs.has(StepOutputInput("last", "out"))


def test_a_step_is_found_by_job_and_name_though_both_may_have_dots(workspace: Workspace, outputs: JobHandle) -> None:
    step = find_step(workspace.services, "j.1.first")
    assert step is not None and (step.job, step.name) == ("j.1", "first")
    for name in ("j.1", "j.1.none", "first", "j.2.first"):
        assert find_step(workspace.services, name) is None


def test_what_a_step_has_logged_lies_beside_what_it_wrote(
    workspace: Workspace, outputs: JobHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "MLmodel").write_text("m")
    monkeypatch.setattr(run, "_sources", [lambda home, run_id: [("net/", tmp_path / "logged")]])
    assert set(outputs.logged(outputs.step("last"))) == {"net/MLmodel"}
    assert paths(workspace, outputs.output_artifact(ARTIFACTS, "net")) == ["MLmodel"]


def test_what_a_sweep_has_was_written_by_its_best_trial(workspace: Workspace, outputs: JobHandle) -> None:
    last = outputs.step("last")
    workspace.records.steps.update(replace(last, properties={BEST_TRIAL: "first"}))
    assert outputs.maker(outputs.step("last")).name == "first" and outputs.maker(outputs.step("first")).name == "first"
