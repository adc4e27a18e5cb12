"""What is seen of workers before anything is decided."""

import json
from pathlib import Path

import pytest

from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.control.serving.decide import WorkerState
from mafunzo.control.serving.observer import Observer
from mafunzo.control.serving.worker_folder import worker_folder
from mafunzo.control.store.home import Home
from mafunzo.entities.endpoint import Deployment

NEVER = Deployment("chat", "blue", "m:1", "sha256:0")
THIRD = Deployment("chat", "green", "m:1", "sha256:0", attempt=3)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def seen(home: Home, deployment: Deployment) -> WorkerState:
    observer = Observer(LocalLauncher(), home)
    try:
        return observer.states([deployment])[deployment.endpoint, deployment.name]
    finally:
        observer.close()


def test_a_deployment_that_was_never_started_has_nothing_to_see(home: Home) -> None:
    assert seen(home, NEVER) == WorkerState()


def test_a_server_that_died_before_the_start_leaves_no_folder(home: Home) -> None:
    assert seen(home, THIRD) == WorkerState(ended="the server ended before the worker had started")


def test_a_worker_that_ended_says_how(home: Home) -> None:
    folder = worker_folder(home, THIRD)
    folder.mkdir(parents=True)
    record = {"exit_code": 3, "signal": None, "pid": 7, "pid_start": 0.0, "started_at": 0.0, "ended_at": 1.0}
    (folder / "exit.json").write_text(json.dumps(record))
    (folder / "log.txt").write_text("error: no chat template\n")
    expected = "exit code 3; its last words were: error: no chat template"
    assert seen(home, THIRD) == WorkerState(ended=expected, is_final=True)


def test_a_worker_that_is_gone_without_a_word_is_given_up(home: Home) -> None:
    folder = worker_folder(home, THIRD)
    folder.mkdir(parents=True)
    assert seen(home, THIRD).ended == "it is gone without a record of its end"
    assert json.loads((folder / "process.json").read_text()) == {"pid": None}
