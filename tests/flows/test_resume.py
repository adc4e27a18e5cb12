"""A training step that is killed in the middle of an epoch goes on from its last checkpoint, bit for bit."""

import json
import os
import signal
from contextlib import suppress
from typing import Any

import psutil
import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.errors import JobCanceled
from tests.support.trained_step import end_after_training, trained
from tests.support.tuned_home import CONVERSATIONS
from tests.support.waiting import LIMIT_S, until

PARAMETERS: dict[str, Any] = {
    "apply_lora": True,
    "lora_dropout": 0.1,
    "learning_rate": 1e-3,
    "max_steps": 60,
    "max_seq_length": 128,
    "evaluation_strategy": "disable",
    "generation_rows": 2,
    "forgetting_prompts": 2,
}


@pytest.mark.slow
def test_a_killed_step_goes_on_from_its_checkpoint_to_the_same_weights(tuned: Workspace) -> None:
    workspace = tuned
    whole = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, **PARAMETERS)
    end_after_training(whole)
    job = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, save_interval_s=0, **PARAMETERS)
    kill_after_a_checkpoint(job, workspace)
    end_after_training(job)
    assert trained(job).attempt == 2
    assert "Goes on from checkpoint-" in job.logs("finetune")
    assert weights(workspace, job) == weights(workspace, whole)
    assert list((workspace.home.jobs / job.name).glob("*/*/outputs")) == []


@pytest.mark.slow
def test_a_cancelled_job_is_resumed_by_a_new_one_to_the_same_weights(tuned: Workspace) -> None:
    workspace = tuned
    job = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, seed=7, **PARAMETERS)
    until(lambda: job.metrics().get("finetune") or job.status.is_terminal, lambda: job.logs("finetune"))
    job.cancel()
    with suppress(JobCanceled):
        job.wait(timeout_s=LIMIT_S)
    assert "SIGTERM: training stops after step" in job.logs("finetune")
    resumed, newest = workspace.jobs.resume(job.name)
    end_after_training(resumed)
    assert newest["finetune"] > 0
    assert f"Goes on from checkpoint-{newest['finetune']}" in resumed.logs("finetune")
    whole = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, seed=7, force_rerun=True, **PARAMETERS)
    end_after_training(whole)
    assert weights(workspace, resumed) == weights(workspace, whole)
    assert list((workspace.home.jobs / resumed.name).glob("finetune/*/outputs")) == []


def kill_after_a_checkpoint(job: JobHandle, workspace: Workspace) -> None:
    """Kill the training process, as the system does when memory runs out, once a whole checkpoint is there."""
    attempt = workspace.home.jobs / job.name / "finetune" / "1"
    until(lambda: list(attempt.glob("outputs/*/checkpoint-*/manifest.json")) or job.status.is_terminal)
    assert not job.status.is_terminal, job.logs("finetune")
    runner = psutil.Process(json.loads((attempt / "process.json").read_text())["pid"])
    for process in [runner, *runner.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)


def weights(workspace: Workspace, job: JobHandle) -> str:
    files = workspace.artifacts.manifest(job.output_artifact("pytorch_model_folder"))
    return next(file.sha256 for file in files if file.path == "adapter_model.safetensors")
