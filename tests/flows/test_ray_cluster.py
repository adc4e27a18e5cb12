"""Training on the nodes of a Ray cluster, which share nothing: as two processes of this machine train, also when a node dies."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mafunzo import Workspace
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.entities.compute import Compute
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
    assert "Trains on 2 node(s) of compute 'lab'" in text
    assert_close(workspace, job, alone, 1e-6)
    assert losses(job) == pytest.approx(losses(alone), rel=1e-6)
    assert TOKEN not in text
    assert not any(TOKEN.encode() in path.read_bytes() for path in workspace.home.root.rglob("*") if path.is_file())


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
