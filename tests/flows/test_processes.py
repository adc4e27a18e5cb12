"""A training step of two processes, one of which is killed, goes on from its last checkpoint, bit for bit."""

import json
import os
import signal
from typing import Any

import psutil
import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.job_handle import JobHandle
from tests.flows.test_resume import PARAMETERS, end_after_training, trained, weights
from tests.support.tuned_home import CONVERSATIONS
from tests.support.waiting import until

TWO: dict[str, Any] = PARAMETERS | {"cpu_processes_finetune": 2, "max_steps": 40, "per_device_train_batch_size": 4}


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_a_step_one_of_whose_processes_is_killed_goes_on_to_the_same_weights(tuned: Workspace) -> None:
    workspace = tuned
    whole = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, **TWO)
    end_after_training(whole)
    assert "2 processes train together" in whole.logs("finetune")
    job = workspace.finetune(model="tiny-llama", train=CONVERSATIONS, save_interval_s=0, **TWO)
    kill_the_second_process(job, workspace)
    end_after_training(job)
    assert trained(job).attempt == 2
    assert "Goes on from checkpoint-" in job.logs("finetune")
    assert weights(workspace, job) == weights(workspace, whole)


def kill_the_second_process(job: JobHandle, workspace: Workspace) -> None:
    """Kill it alone, once a whole checkpoint is there."""
    attempt = workspace.home.jobs / job.name / "finetune" / "1"
    until(lambda: list(attempt.glob("outputs/*/checkpoint-*/manifest.json")) or job.status.is_terminal)
    assert not job.status.is_terminal, job.logs("finetune")
    runner = psutil.Process(json.loads((attempt / "process.json").read_text())["pid"])
    (second,) = (child for child in runner.children() if child.environ().get("RANK") == "1")
    os.kill(second.pid, signal.SIGKILL)
