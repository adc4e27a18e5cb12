"""Taking everything down, and the proof that nothing is left."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import psutil
import pytest

from mafunzo.control.workspace.shutdown import shut_down
from mafunzo.entities.endpoint import DeploymentStatus
from mafunzo.entities.job import JobStatus, StepStatus
from tests.support.pipeline_bench import Bench as PipelineBench
from tests.support.pipeline_bench import shell
from tests.support.process import lives
from tests.support.served import Served
from tests.support.waiting import LIMIT_S

HOLD = shell(
    "hold",
    "echo begun; setsid sleep 3000 & until [ -e ${{inputs.gate}} ]; do sleep 0.05; done; echo done > ${{outputs.out}}",
)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    """A server of the test's own."""
    made = Served(tmp_path)
    made.start()
    yield made
    made.stop()


def test_down_ends_everything_and_proves_it(own: Served) -> None:
    found = own.go_live()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(own.say, "slow")
        report = shut_down(own.home)
        assert isinstance(answer.exception(), openai.APIError), "a request under way is cut off in the end"
    assert {process.purpose for process in report.processes} == {"server", "worker chat/blue"}
    assert {own.address.port, found.port} <= set(report.ports)
    assert report.memory_mb > 10
    assert report.deployments == ("chat/blue",)
    assert not any(lives(process.pid) for process in report.processes if process.pid != own.process.pid)
    assert own.home.holder() is None
    assert own.leases.list() == []
    assert report.lines()[-1].endswith("looked again: none of them is left.")
    assert shut_down(own.home).lines()[0].startswith("Nothing was running")


def test_down_ends_workers_whose_server_was_killed(own: Served) -> None:
    own.go_live()
    os.kill(own.process.pid, signal.SIGKILL)
    own.process.wait()
    report = shut_down(own.home)
    assert {process.purpose for process in report.processes} == {"worker chat/blue"}


def test_what_was_served_before_down_is_served_again_after_up(own: Served) -> None:
    before = own.go_live()
    shut_down(own.home)
    own.process.wait(LIMIT_S)
    assert own.find().status is DeploymentStatus.WAITING
    own.start()
    own.wait_for(lambda: own.find().status is DeploymentStatus.HEALTHY)
    assert own.find().attempt == before.attempt + 1
    assert own.say("hello").choices


def test_down_cuts_steps_off_and_up_runs_them_again(own: Served) -> None:
    pipelines = PipelineBench(own.home.root)
    gate = own.files / "gate"
    own.files.mkdir()
    pipelines.submit("job", HOLD, {"gate": str(gate)})
    own.wait_for(lambda: "begun" in _log(own, 1))
    report = shut_down(own.home)
    own.process.wait(LIMIT_S)
    assert report.steps == ("job/hold",)
    assert {process.purpose for process in report.processes} == {"server", "step job/hold"}
    assert len(report.processes) >= 4, "the runner, its shell, and what the shell left in a session of its own"
    [step] = own.records.steps.of("job")
    assert (step.status, own.records.jobs.get("job").status.is_terminal) == (StepStatus.WAITING, False)
    assert own.leases.list() == []
    gate.touch()
    own.start()
    own.wait_for(lambda: own.records.jobs.get("job").status is JobStatus.COMPLETED)
    pipelines.database.close()


def test_processes_that_the_server_did_not_start_are_left_alone(own: Served) -> None:
    with psutil.Popen(["sleep", "3000"], cwd=own.home.root) as stranger:
        shut_down(own.home)
        assert stranger.is_running()
        stranger.kill()


def _log(own: Served, attempt: int) -> str:
    file = own.home.jobs / "job" / "hold" / str(attempt) / "log.txt"
    return file.read_text() if file.exists() else ""
