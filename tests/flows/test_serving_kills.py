"""`kill -9` of the server at any moment of a deployment: the next one goes on, and there is one worker in the end."""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from mafunzo.entities.endpoint import DeploymentStatus
from mafunzo.tracking.step_folder import STEP_FOLDER
from tests.support.served import Served


def _workers(served: Served) -> list[psutil.Process]:
    """The processes that answer requests, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get(STEP_FOLDER, "").startswith(str(served.home.workers))
            if is_ours and "fake_worker.py" in process.cmdline()[1] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError, IndexError):
            continue
    return found


def _storm(folder: Path, seed: int, kills: int) -> None:
    draw = random.Random(seed)
    served = Served(folder)
    try:
        served.start()
        served.deploy(served.model({"load_s": 0.3}))
        for _ in range(kills):
            time.sleep(draw.uniform(0, 1.5))
            os.kill(served.process.pid, signal.SIGKILL)
            served.process.wait()
            served.start()
        served.wait_for(lambda: served.find().status is DeploymentStatus.HEALTHY)
        assert served.say("hello").choices
        assert len(_workers(served)) == 1
        assert [lease.owner for lease in served.leases.list()] == ["worker:chat/blue"]
    finally:
        served.stop()
    assert _workers(served) == []


@pytest.mark.slow
def test_a_server_killed_five_times_leaves_one_worker_that_answers(tmp_path: Path) -> None:
    _storm(tmp_path, seed=1, kills=5)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_a_server_killed_often_leaves_one_worker_that_answers(tmp_path: Path, seed: int) -> None:
    _storm(tmp_path, seed, kills=20)
