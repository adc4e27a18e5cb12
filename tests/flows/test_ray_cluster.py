"""Training on the nodes of a Ray cluster, which share nothing: as two processes of this machine train, also when a node dies."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mafunzo import Workspace
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.entities.component import COMPUTE, Component, Input, Node
from mafunzo.entities.compute import Compute
from mafunzo.entities.job import ArtifactInput, JobStatus, StepStatus
from mafunzo.entities.job_request import JobRequest
from mafunzo.entities.sweep import Distribution, EarlyTermination, Goal, Policy, Sampling, Sweep
from mafunzo.errors import JobCanceled, Unreachable
from mafunzo.tracking.step_folder import StepFolder
from tests.support.ray_hosts import TOKEN, RayHosts, can_make_hosts
from tests.support.trained_step import end_after_training, trained
from tests.support.tuned_home import CONVERSATIONS
from tests.support.waiting import LIMIT_S, until

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_hosts(), reason="hosts are made of namespaces, which needs root"),
]
PARAMETERS: dict[str, Any] = {
    "apply_lora": True,
    "lora_r": 4,
    "learning_rate": 1e-3,
    "max_steps": 40,
    "max_seq_length": 128,
    "num_nodes_finetune": 2,
    "per_device_train_batch_size": 2,
    "logging_steps": 1,
    "evaluation_strategy": "disable",
}
CLOSE = 1e-4


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHosts]:
    with RayHosts(tmp_path_factory.mktemp("ray")) as hosts:
        hosts.start(1)
        hosts.start(2)
        yield hosts


@pytest.fixture(scope="module")
def workspace(tuned: Workspace, hosts: RayHosts) -> Workspace:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        tuned.computes.create(Compute("lab", "", address=hosts.address))
    return tuned


@pytest.fixture(scope="module")
def alone(workspace: Workspace) -> JobHandle:
    """The same run by two processes of this machine."""
    job = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, cpu_processes_finetune=2, **PARAMETERS)
    end_after_training(job)
    return job


def test_two_nodes_train_as_two_processes_of_this_machine_do(
    workspace: Workspace, hosts: RayHosts, alone: JobHandle
) -> None:
    job = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, compute_finetune="lab", **PARAMETERS)
    end_after_training(job)
    text = job.logs("finetune")
    assert f"[{hosts.host(1)}] Model: tiny-llama" in text
    assert "Runs on 2 node(s) of compute 'lab'" in text
    assert_close(workspace, job, alone, 1e-6)
    assert losses(job) == pytest.approx(losses(alone), rel=1e-6)
    assert TOKEN not in text
    assert not any(TOKEN.encode() in path.read_bytes() for path in workspace.home.root.rglob("*") if path.is_file())


@pytest.mark.soak
def test_an_estimate_is_measured_where_training_runs(workspace: Workspace) -> None:
    arguments = {"model": "tiny-llama", "train": CONVERSATIONS, "compute_finetune": "lab", **PARAMETERS}
    estimate = workspace.estimate(**arguments)
    assert (estimate.compute, estimate.processes, estimate.steps) == ("lab", 2, 40)
    assert estimate.total_memory_bytes is not None
    assert estimate.time_s.expected > 0 and estimate.disk_bytes > 0
    job = workspace.finetune(**arguments)
    job.cancel()
    assert job.job.properties["estimate"]["time_s"]["expected"] == estimate.time_s.expected
    elsewhere = workspace.finetune(**{**arguments, "compute_finetune": "local"})
    elsewhere.cancel()
    assert "estimate" not in elsewhere.job.properties


def test_a_pipeline_with_a_sweep_runs_on_the_nodes_and_one_that_dies_hides_no_trial(
    workspace: Workspace, hosts: RayHosts
) -> None:
    job = search(workspace, searched(Distribution("choice", (1e-6, 1e-2)), max_steps=300))
    until(lambda: trial_on(job, hosts.host(2)) or job.status.is_terminal, lambda: seen(job))
    lost = trial_on(job, hosts.host(2))
    hosts.kill(2)
    job.wait(timeout_s=LIMIT_S)
    hosts.start(2)
    steps = {step.name: step for step in job.steps}
    assert all(step.status is StepStatus.COMPLETED for step in steps.values())
    assert {name for name, step in steps.items() if step.spec.placement} == {*steps}
    (other,) = {*TRIALS} - {lost}
    assert (steps[lost].attempt, steps[other].attempt) == (2, 1)
    assert f"Node {hosts.host(2)} is lost" in StepFolder.of(workspace.home.jobs, job.name, lost, 1).log.read_text()
    assert f"Runs on 1 node(s) of compute 'lab', processes in brackets: {hosts.host(1)} (1)" in job.logs(other)
    assert steps["finetune"].properties["best_trial"] == "finetune.trial_1"
    assert steps["finetune"].outputs == steps["finetune.trial_1"].outputs
    workspace.artifacts.open_file(steps["evaluate"].outputs["evaluation_result"], "report.html")


@pytest.mark.soak
def test_a_trial_that_falls_behind_is_ended_on_its_node_and_saves_first(workspace: Workspace, hosts: RayHosts) -> None:
    policy = EarlyTermination(Policy.BANDIT, slack_amount=0.01)
    better_first = Distribution(
        "choice", (1e-2, 1e-6)
    )  # one after the other, so that the worse has what to compare with
    values = {"max_steps": 1000, "evaluation_strategy": "steps", "eval_steps": 20}
    job = search(workspace, searched(better_first, policy, at_once=1, **values))
    job.wait(timeout_s=LIMIT_S)
    steps = {step.name: step for step in job.steps}
    assert [steps[name].status for name in TRIALS] == [StepStatus.COMPLETED, StepStatus.CANCELED]
    assert "is worse than" in steps[TRIALS[1]].reason
    assert "SIGTERM: training stops after step" in job.logs(TRIALS[1])
    assert steps["evaluate"].status is StepStatus.COMPLETED


TRIALS = ("finetune.trial_0", "finetune.trial_1")


def search(workspace: Workspace, pipeline: Component) -> JobHandle:
    rows = ArtifactInput(workspace.artifacts.put(CONVERSATIONS), CONVERSATIONS.name)
    model = tuned_output(workspace, "import_model")
    return workspace.jobs.create(JobRequest(f"swept-{os.urandom(3).hex()}", pipeline, {"model": model, "rows": rows}))


def searched(rates: Distribution, policy: EarlyTermination | None = None, at_once: int = 4, **values: Any) -> Component:
    """A pipeline all of whose steps run on the cluster: it looks for the better one of two learning rates."""
    space = {"learning_rate": rates}
    sweep = Sweep("eval_loss", Goal.MINIMIZE, space, Sampling.GRID, 2, max_parallel=at_once, early_termination=policy)
    model, prepared = "${{parent.inputs.model}}", "${{parent.jobs.prepare_data.outputs.prepared}}"
    left_out = (*space, "num_nodes_finetune", "max_seq_length", "evaluation_strategy")
    values = {name: value for name, value in PARAMETERS.items() if name not in left_out} | values
    nodes = (
        Node(
            "prepare_data",
            "prepare_data",
            {"model": model, "train_file_path": "${{parent.inputs.rows}}", "max_seq_length": 128},
        ),
        Node(
            "finetune",
            "finetune",
            {"model": model, "prepared": prepared, **values},
            sweep=sweep,
        ),
        Node(
            "evaluate",
            "evaluate",
            {"model": model, "prepared": prepared, "tuned": "${{parent.jobs.finetune.outputs.pytorch_model_folder}}"}
            | {"generation_rows": 1, "forgetting_prompts": 1},
        ),
    )
    inputs = {"model": Input("model", "uri_folder"), "rows": Input("rows", "uri_file")}
    placed = {node.name: replace(node, bound={COMPUTE: "lab"}) for node in nodes}
    return Component("searched", "1", "pipeline", inputs=inputs, nodes=placed)


def tuned_output(workspace: Workspace, step: str) -> ArtifactInput:
    done = [job for job in workspace.jobs.list() if job.status is JobStatus.COMPLETED]
    (tuning,) = [job for job in done if job.component.startswith("chat_completion_pipeline:")]
    (artifact,) = next(one.outputs for one in workspace.jobs.get(tuning.name).steps if one.name == step).values()
    return ArtifactInput(artifact)


def trial_on(job: JobHandle, host: str) -> str:
    """Return the trial that is at work on a node; empty for none."""
    running = [step.name for step in job.steps if step.name in TRIALS and step.status is StepStatus.RUNNING]
    return next((name for name in running if f"{host} (1)" in job.logs(name)), "")


def seen(job: JobHandle) -> str:
    return repr([(step.name, step.status, step.reason) for step in job.steps])


def test_a_node_that_dies_costs_no_more_than_the_steps_since_the_last_checkpoint(
    workspace: Workspace, hosts: RayHosts, alone: JobHandle
) -> None:
    job = workspace.finetune(
        model="tiny-llama",
        train=CONVERSATIONS,
        compute_finetune="lab",
        save_interval_s=0,
        force_rerun=True,
        **PARAMETERS,
    )
    first = StepFolder.of(workspace.home.jobs, job.name, "finetune", 1)
    until(lambda: first.checkpoints or job.status.is_terminal, lambda: job.logs("finetune"))
    hosts.kill(2)
    end_after_training(job)
    assert trained(job).attempt == 2
    assert f"Node {hosts.host(2)} is lost" in first.log.read_text()
    assert "Goes on from checkpoint-" in job.logs("finetune")
    assert "1 node(s)" in job.logs("finetune")
    assert_close(workspace, job, alone, CLOSE)


@pytest.mark.soak
def test_a_cancelled_job_saves_first_on_the_nodes(workspace: Workspace, hosts: RayHosts) -> None:
    job = workspace.finetune(
        model="tiny-llama", train=CONVERSATIONS, compute_finetune="lab", seed=7, **PARAMETERS | {"max_steps": 4000}
    )
    until(lambda: job.metrics().get("finetune") or job.status.is_terminal, lambda: job.logs("finetune"))
    job.cancel()
    with suppress(JobCanceled):
        job.wait(timeout_s=LIMIT_S)
    assert "SIGTERM: training stops after step" in job.logs("finetune")
    assert StepFolder.of(workspace.home.jobs, job.name, "finetune", 1).checkpoints


@pytest.mark.soak
def test_a_cluster_refuses_another_token_by_name(
    workspace: Workspace, hosts: RayHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ab" * 16)
    with pytest.raises(Unreachable, match=f"{hosts.address} refuses: the token is missing or another"):
        workspace.computes.create(Compute("other", "", address=hosts.address))


def losses(job: JobHandle) -> list[float]:
    return [line["loss"] for line in job.metrics()["finetune"] if "loss" in line]


def weights(workspace: Workspace, job: JobHandle) -> Path:
    return workspace.artifacts.open_file(job.output_artifact("pytorch_model_folder"), "adapter_model.safetensors")


def assert_close(workspace: Workspace, one: JobHandle, other: JobHandle, tolerance: float) -> None:
    ours, theirs = load_file(weights(workspace, one)), load_file(weights(workspace, other))
    assert ours.keys() == theirs.keys()
    assert max(float((tensor - theirs[name]).abs().max()) for name, tensor in ours.items()) <= tolerance
