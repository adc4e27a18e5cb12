"""Tests of `mafunzo.control.workspace.estimate`: what is asked for, and what is read from what the component wrote."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.job import Job, JobStatus, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.entities.server_address import ServerAddress
from mafunzo.errors import InvalidParameter, JobFailed, NotFound
from mafunzo.tracking.atomic_json import write_json
from tests.support.made_estimate import made_estimate

ROWS = Path(__file__).parents[4] / "examples" / "conversations.jsonl"
LINE = {"model": "tiny-llama", "train": ROWS, "apply_lora": "true", "lora_r": 4}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        address = ServerAddress(1, 2, 3, 4.0)
        opened._open_verbs(replace(opened.services, up=lambda: address))
        yield opened


def add_estimate(workspace: Workspace, tmp_path: Path, name: str = "estimate-1") -> None:
    (folder := tmp_path / name).mkdir()
    write_json(folder / "estimate.json", made_estimate().as_dict())
    spec = StepSpec("estimate", "estimate:1", "sha256:0", "true", outputs={"estimate": "uri_folder"})
    step = Step(name, spec, StepStatus.COMPLETED, 1, outputs={"estimate": workspace.artifacts.put(folder)})
    job = Job(name, "e", "e", "estimate_pipeline:1", {}, {"estimate": StepOutputInput("estimate", "estimate")})
    workspace.records.jobs.add(replace(job, status=JobStatus.COMPLETED), [step])


def test_it_prepares_what_the_job_prepares_and_takes_its_parameters(workspace: Workspace) -> None:
    planned = {step.name: step for step in workspace.jobs.plan_finetune(**LINE)[1]}
    steps = {step.name: step for step in workspace.jobs.estimate(**LINE, priority=3).steps}
    assert list(steps) == ["import_model", "prepare_data", "estimate"]
    assert steps["estimate"].spec.literals == planned["finetune"].spec.literals
    assert steps["estimate"].spec.resources == planned["finetune"].spec.resources
    assert not steps["estimate"].spec.is_deterministic
    for name in ("import_model", "prepare_data"):  # so that the job takes them from the cache
        assert steps[name].spec.literals == planned[name].spec.literals
        assert (steps[name].spec.command, steps[name].spec.code) == (
            planned[name].spec.command,
            planned[name].spec.code,
        )


def test_what_names_the_job_is_checked_and_left_to_it(workspace: Workspace) -> None:
    job = workspace.jobs.estimate(**LINE, job_name="mine", tags="a=b", priority=3).job
    assert job.name.startswith("estimate-") and not job.tags and job.priority == 3
    assert job.display_name == "estimate tiny-llama on conversations.jsonl"


def test_all_faults_come_at_once_and_nothing_is_stored(workspace: Workspace) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        workspace.jobs.estimate(**LINE, max_steps=0, gate="perhaps", tags="a", learning_rat=1)
    assert len(refusal.value.faults) == 4
    assert workspace.jobs.list() == [] and workspace.artifacts.hashes() == []


def test_the_price_is_that_of_now(workspace: Workspace, tmp_path: Path) -> None:
    add_estimate(workspace, tmp_path)
    assert workspace.jobs.read_estimate("estimate-1") == made_estimate()
    workspace._open_verbs(replace(workspace.services, price_per_hour=0.5))
    assert workspace.jobs.read_estimate("estimate-1").cost == made_estimate().at(0.5).cost


def test_a_job_without_an_estimate_says_so(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match="none"):
        workspace.jobs.read_estimate("none")
    name = workspace.jobs.estimate(**LINE).name
    with pytest.raises(JobFailed, match="has no estimate"):
        workspace.jobs.read_estimate(name)
