"""Tests of `mafunzo.control.workspace.resumption`: a new job that goes on with one that has ended early."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.resumption import RESUMED_FROM
from mafunzo.control.workspace.shipped_component import shipped
from mafunzo.entities.job import ArtifactInput, Job, JobStatus, LiteralInput, Resources, Step, StepSpec, StepStatus
from mafunzo.entities.pruning import PRUNED
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entities.sweep import BEST_TRIAL, DRAWN, Distribution, EarlyTermination, Goal, Policy, Sampling, Sweep
from mafunzo.errors import Conflict, InvalidParameter
from mafunzo.tracking.step_folder import StepFolder, earlier_outputs
from tests.support.pipeline_bench import Bench, shell

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


TRAINED = replace(
    FINETUNE,
    inputs={
        "learning_rate": LiteralInput(0.1),
        "num_train_epochs": LiteralInput(1.0),
        "apply_lora": LiteralInput("true"),
    },
)


def trained(workspace: Workspace, status: JobStatus = JobStatus.CANCELED, **literals: LiteralInput) -> None:
    spec = replace(TRAINED, inputs={**TRAINED.inputs, **literals})
    job = Job("j", "shown", "e", "chat_completion_pipeline", {"learning_rate": 0.1}, status=status)
    workspace.records.jobs.add(
        job, [Step("j", PREPARE, StepStatus.COMPLETED, 1), Step("j", spec, StepStatus.CANCELED, 1)]
    )


def test_parameters_of_training_become_others(workspace: Workspace) -> None:
    trained(workspace)
    leave(workspace, 1, 20, "of attempt 1")
    handle, newest = workspace.jobs.resume("j", num_train_epochs="3", lr=0.05, save_interval_s=60)
    literals = handle.steps[1].spec.literals
    assert newest == {"finetune": 20}
    assert literals == {"learning_rate": 0.05, "num_train_epochs": 3.0, "save_interval_s": 60.0, "apply_lora": "true"}
    assert handle.job.inputs == {"learning_rate": 0.05, "num_train_epochs": 3.0, "save_interval_s": 60.0}
    assert handle.steps[0].spec.inputs == PREPARE.inputs, "only training's are"


@pytest.mark.parametrize(
    ("literals", "changes", "faults"),
    [
        pytest.param(
            {},
            {"lora_r": 4, "learning_rate": "fast", "nonsense": 1},
            ["lora_r can't be changed.", "learning_rate is 'fast', expected ", "nonsense can't be changed."],
            id="each by name",
        ),
        pytest.param({}, {"learning_rate": 7}, ["learning_rate is 7, expected "], id="out of its range"),
        pytest.param({}, {"lr": 0.1, "learning_rate": 0.2}, ["learning_rate is given twice."], id="given twice"),
        pytest.param({}, {"max_steps": 0}, ["max_steps is 0, expected 1 or more"], id="between parameters"),
        pytest.param(
            {"max_steps": LiteralInput(60)},
            {"num_train_epochs": 3},
            [
                "num_train_epochs is 3.0 while max_steps is 60, which decides. Change max_steps, or set it to -1 as well."
            ],
            id="without effect",
        ),
    ],
)
def test_what_can_not_be_changed_is_refused_by_name_with_what_can(
    workspace: Workspace, literals: dict[str, LiteralInput], changes: dict[str, object], faults: list[str]
) -> None:
    trained(workspace, **literals)
    with pytest.raises(
        InvalidParameter, match="What may change: num_train_epochs, max_steps, learning_rate, "
    ) as caught:
        workspace.jobs.resume("j", **changes)
    assert [fault.startswith(start) for fault, start in zip(caught.value.faults, faults, strict=True)] == [True] * len(
        faults
    )
    assert [job.name for job in workspace.jobs.list()] == ["j"]


def test_a_job_without_training_has_nothing_to_change(workspace: Workspace) -> None:
    workspace.records.jobs.add(
        Job("j", "", "e", "c:1", status=JobStatus.FAILED), [Step("j", PREPARE, StepStatus.FAILED)]
    )
    with pytest.raises(InvalidParameter, match="Job j has no training step"):
        workspace.jobs.resume("j", learning_rate=0.1)


def test_a_completed_job_is_gone_on_with_from_the_checkpoints_that_are_stored_with_its_model(
    workspace: Workspace, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    (model / "checkpoint-20").mkdir(parents=True)
    (model / "checkpoint-20" / "weights").write_text("of step 20")
    (model / "adapter.safetensors").write_text("the result")
    (model / "more").mkdir()
    (model / "more" / "file").write_text("x")
    stored = workspace.artifacts.put(model)
    job = Job("j", "shown", "e", "chat_completion_pipeline", status=JobStatus.COMPLETED)
    step = Step("j", TRAINED, StepStatus.CACHED, outputs={"pytorch_model_folder": stored})
    workspace.records.jobs.add(job, [step])
    with pytest.raises(Conflict, match=r"there is nothing to go on with\. Give more epochs or steps"):
        workspace.jobs.resume("j", num_train_epochs=1, save_interval_s=5)
    handle, newest = workspace.jobs.resume("j", num_train_epochs=2)
    assert newest == {"finetune": 20}
    left = output(workspace, handle.name, 0)
    assert [str(path.relative_to(left)) for path in left.rglob("*") if path.is_file()] == ["checkpoint-20/weights"]
    assert workspace.artifacts.verify(stored) == []


SPACE = {"x": Distribution("choice", (5, 1, 9, 0))}
SWEEP = Sweep(
    "loss", Goal.MINIMIZE, SPACE, Sampling.GRID, 4, 4, early_termination=EarlyTermination(Policy.BANDIT, slack_amount=6)
)
TRIAL = shell(
    "trial",
    'echo "{\\"step\\": 1, \\"loss\\": ${{inputs.x}}}" >> $MAFUNZO_STEP_FOLDER/metrics.jsonl; '
    "[ -e $MAFUNZO_STEP_FOLDER/../../../go ] || [ ${{inputs.x}} = 5 ] || [ ${{inputs.x}} = 1 ] || sleep 600; "
    "echo ${{inputs.x}} > ${{outputs.out}}",
    is_deterministic=False,
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    opened = Bench(tmp_path / "home", Resources(cpus=4, memory_mb=8000))
    yield opened
    opened.close()


@pytest.mark.parametrize("is_node", [True, False])
def test_a_sweep_goes_on_with_the_trials_that_had_not_ended(is_node: bool, bench: Bench, workspace: Workspace) -> None:
    """Of four trials two have ended, the third has fallen behind, and the fourth is cut off."""
    bench.submit("j", {"look": TRIAL}, bindings={"look": {"sweep": SWEEP}})
    if not is_node:
        steps = [step for step in bench.records.steps.of("j") if step.spec.trial_of]
        job = replace(bench.records.jobs.get("j"), sweep=SWEEP, continue_on_step_failure=True)
        bench.records.jobs.request_cancel("j")
        bench.finish("j")
        bench.records.jobs.delete("j")
        bench.records.jobs.add(job, [replace(step, spec=replace(step.spec, trial_of="")) for step in steps])
    bench.until(
        lambda: (
            [bench.statuses("j")[f"look.trial_{n}"] for n in range(4)]
            == ["completed", "completed", "canceled", "running"]
        )
    )
    bench.until(lambda: (bench.folder("j", "look.trial_3") / "metrics.jsonl").exists())
    bench.records.jobs.request_cancel("j")
    assert bench.finish("j").status == JobStatus.CANCELED
    (bench.home.jobs / "go").touch()
    new, _ = workspace.jobs.resume("j")
    job = bench.finish(new.name)
    assert job.status == JobStatus.COMPLETED and job.properties[RESUMED_FROM] == "j"
    trials = [bench.step(new.name, f"look.trial_{n}") for n in range(4)]
    assert [(str(step.status), step.attempt) for step in trials] == [
        ("cached", 0),
        ("cached", 0),
        ("canceled", 0),
        ("completed", 1),
    ]
    assert trials[0].reason == "same as j/look.trial_0" and "is worse than" in trials[2].reason
    assert [lines[0]["loss"] for name, lines in new.metrics().items()] == [5, 1, 9, 0]
    best = bench.step(new.name, "look").properties if is_node else job.properties
    assert best[BEST_TRIAL] == "look.trial_3"


def test_a_trial_that_logged_nothing_or_is_damaged_runs_again_and_values_that_were_drawn_stay(
    workspace: Workspace, tmp_path: Path
) -> None:
    (file := tmp_path / "out").write_text("x")
    whole = workspace.artifacts.put(file)
    sweep = replace(SWEEP, sampling=Sampling.BAYESIAN)
    specs = [
        StepSpec(f"trial_{n}", "c:1", "", "", inputs={"x": LiteralInput(n)}, outputs={"o": "uri_file"})
        for n in range(4)
    ]
    steps = [
        Step("j", specs[0], StepStatus.COMPLETED, 1, outputs={"o": whole}),
        Step("j", specs[1], StepStatus.COMPLETED, 1, outputs={"o": whole}),
        Step("j", specs[2], StepStatus.COMPLETED, 1, outputs={"o": "sha256:" + "0" * 64}),
        Step("j", specs[3], StepStatus.CANCELED),
    ]
    workspace.records.jobs.add(Job("j", "", "e", "c:1", status=JobStatus.FAILED, sweep=sweep), steps)
    for step in (steps[0], steps[2]):
        folder = StepFolder.of(workspace.home.jobs, "j", step.name, 1)
        folder.path.mkdir(parents=True)
        folder.metrics.write_text('{"step": 1, "loss": 2}\n')
    new, _ = workspace.jobs.resume("j")
    assert [str(step.status) for step in new.steps] == ["cached", "waiting", "waiting", "waiting"]
    assert [bool(step.properties.get(DRAWN)) for step in new.steps] == [False, True, True, False]
