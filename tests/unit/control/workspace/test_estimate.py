"""Tests of `mafunzo.control.workspace.estimate`: what is asked for, and what is read from what the component wrote."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace import estimate as module
from mafunzo.entities.job import Job, JobStatus, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.entities.scan import Scan
from mafunzo.entities.server_address import ServerAddress
from mafunzo.errors import InvalidParameter, JobFailed, NotFound
from mafunzo.tracking.atomic_json import write_json
from mafunzo.tracking.metrics import MetricLog
from mafunzo.tracking.step_folder import StepFolder
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


def estimated(workspace: Workspace, **more: object) -> None:
    """Have an estimate made of `LINE`, without its processes."""
    job = workspace.jobs.estimate(**LINE, **more)
    folder = workspace.home.root / f"made-{job.name}"
    folder.mkdir()
    write_json(folder / "estimate.json", made_estimate().as_dict())
    (step,) = [step for step in job.steps if step.name == "estimate"]
    output = {"estimate": workspace.artifacts.put(folder)}
    workspace.records.steps.update(replace(step, status=StepStatus.COMPLETED, outputs=output))
    workspace.records.jobs.update(replace(job.job, status=JobStatus.COMPLETED))


def trained(workspace: Workspace, seconds: float, peak: float, status: StepStatus = StepStatus.COMPLETED) -> Job:
    """Have `LINE` trained, without its processes; return the job."""
    job = workspace.finetune(**LINE)
    (step,) = [step for step in job.steps if step.name == "finetune"]
    workspace.records.steps.update(replace(step, status=status, attempt=1))
    workspace.records.jobs.update(replace(job.job, status=JobStatus.COMPLETED))
    folder = StepFolder.of(workspace.home.jobs, job.name, "finetune", 1)
    folder.path.mkdir(parents=True)
    log = MetricLog(folder.metrics)
    log.log(1, {"loss": 2.0})
    log.log(9, {"train_runtime": seconds, "peak_memory_bytes": peak})
    return job.job


def test_a_run_keeps_the_newest_estimate_of_its_very_configuration(workspace: Workspace) -> None:
    assert "estimate" not in workspace.finetune(**LINE).job.properties
    estimated(workspace, num_train_epochs=7)
    assert "estimate" not in workspace.finetune(**LINE).job.properties  # of another run
    estimated(workspace)
    kept = workspace.finetune(**LINE).job.properties["estimate"]
    assert kept["time_s"] == {"expected": 7200.0, "low": 6000.0, "high": 8400.0}
    assert kept["memory_bytes"]["expected"] == 2 * 10**9
    assert workspace.jobs.get(kept["job"]).job.component.startswith("estimate_pipeline")


def test_the_scoreboard_compares_runs_with_their_estimates_and_counts_the_others(workspace: Workspace) -> None:
    trained(workspace, 1, 1)  # never estimated
    estimated(workspace)
    for seconds, peak in ((7200, 10**9), (3600, 2 * 10**9), (4800, 2 * 10**9)):
        trained(workspace, seconds, peak)
    trained(workspace, 1, 1, StepStatus.CACHED)  # no run of its own
    workspace.finetune(**LINE)  # not ended
    board = workspace.jobs.scoreboard()
    assert (board.runs, board.left_out) == (3, 1)
    assert (board.time.median, board.memory.median) == pytest.approx((0.5, 0.0))
    assert board.memory.p90 == pytest.approx(0.8)


def test_runs_are_read_page_by_page(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    estimated(workspace)
    for _ in range(3):
        trained(workspace, 7200, 2 * 10**9)
    monkeypatch.setattr(module, "Scan", lambda: Scan(size=1))
    monkeypatch.setattr(type(workspace.records.jobs), "list", None)
    assert workspace.jobs.scoreboard().runs == 3


def test_a_run_whose_estimate_was_pruned_has_none(workspace: Workspace) -> None:
    estimated(workspace)
    newest, *_ = workspace.jobs.list()
    workspace.artifacts.delete(workspace.jobs.get(newest.name).output_artifact("estimate"))
    assert "estimate" not in workspace.finetune(**LINE).job.properties
