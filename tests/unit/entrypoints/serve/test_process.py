"""Tests of `mafunzo.entrypoints.serve.process`: what refuses to start, and what is there from start to stop."""

import logging
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.launcher.server_process import address_file, find_server
from mafunzo.control.workspace import Home
from mafunzo.entities.job import Job, JobStatus, Step, StepSpec, StepStatus
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entities.user import Role
from mafunzo.entrypoints.http.auth import operator_key
from mafunzo.entrypoints.http.cors import Cors
from mafunzo.entrypoints.http.identity import OPERATOR_AUDIENCE, Attempt, identity_of
from mafunzo.entrypoints.serve import process
from mafunzo.entrypoints.serve.process import log_to, serve
from mafunzo.errors import HomeInUse, InvalidParameter, PortInUse, RefusedError

NO_WORKER = ("/bin/false",)


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Any]]:
    """The handlers of signals that the server sets; the process of the tests keeps its own, and its umask."""
    installed: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", installed.__setitem__)
    before = os.umask(0o022)
    yield installed
    os.umask(before)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def stop(_: ServerAddress) -> None:
    raise KeyboardInterrupt


def test_from_start_to_stop_the_server_is_found_and_its_loops_run(
    home: Home, handlers: dict[int, Any], caplog: pytest.LogCaptureFixture
) -> None:
    addresses: list[ServerAddress | None] = []

    def on_up(address: ServerAddress) -> None:
        addresses.extend([address, find_server(home)])
        assert stat.S_IMODE(address_file(home).stat().st_mode) == 0o600
        handlers[signal.SIGTERM]()  # as the system does: it ends as Ctrl-C ends it

    with caplog.at_level(logging.INFO, process.logger.name):
        serve(home, 0, 0, worker=NO_WORKER, on_up=on_up)
    assert addresses[0] == addresses[1]
    assert addresses[0] is not None and addresses[0].port > 0
    assert not address_file(home).exists()
    texts = [record.getMessage() for record in caplog.records]
    assert [texts[0].startswith("Server http://127.0.0.1:"), texts[-2]] == [True, "Asked to stop"]
    assert "Steps and workers that run go on, for the next server" in texts[-1]
    handlers[signal.SIGTERM]()  # it is ending already
    with home.lock():
        pass


def test_one_home_has_one_server(home: Home) -> None:
    def second(_: ServerAddress) -> None:
        with pytest.raises(HomeInUse):
            serve(home, 0, 0, worker=NO_WORKER, on_up=stop)
        raise KeyboardInterrupt

    serve(home, 0, 0, worker=NO_WORKER, on_up=second)


def test_a_port_in_use_is_named_with_the_option_that_chooses_another(home: Home, tmp_path: Path) -> None:
    def second(address: ServerAddress) -> None:
        with pytest.raises(PortInUse, match=rf"Port {address.port} is in use by .*pass another --port"):
            serve(Home(tmp_path / "other"), address.port, 0, on_up=stop)
        raise KeyboardInterrupt

    serve(home, 0, 0, worker=NO_WORKER, on_up=second)


def test_others_reach_the_server_only_when_the_home_has_an_owner(home: Home) -> None:
    with pytest.raises(RefusedError, match="has no user with the role owner"):
        serve(home, 0, 0, worker=NO_WORKER, address="0.0.0.0", on_up=stop)
    with Workspace(home.root, port=0) as workspace:
        workspace.users.create("amina", "owner")
    addresses: list[str] = []
    serve(home, 0, 0, worker=NO_WORKER, address="0.0.0.0", on_up=lambda own: [addresses.append(own.listen), stop(own)])
    assert addresses == ["0.0.0.0"]


def test_a_step_finds_a_token_of_its_own_that_is_good_while_that_attempt_runs(home: Home) -> None:
    pytest.importorskip("mafunzo.entrypoints.azure")
    pytest.importorskip("mafunzo.entrypoints.mlflow")
    job = Job("job1", "job1", "chat", "command:1", created_by="amina", status=JobStatus.RUNNING)
    spec = StepSpec("train", "command:1", "sha256:0", "true")
    step = Step("job1", spec, status=StepStatus.RUNNING, attempt=2)
    identity = identity_of(home, "baraka")
    with Workspace(home.root, port=0) as workspace:
        workspace.services.records.jobs.add(job, [step])
        own = ServerAddress(1, 0.0, 8080, "", https_port=8443)
        variables = process._variables_of_a_step(workspace, own, identity, job, step, {}, {})
        assert operator_key(home) not in str(variables) and identity.header not in str(variables)
        assert variables["MLFLOW_TRACKING_URI"] == f"http://{own.host}:8080/mlflow"
        claimed = identity.check_token(variables["MLFLOW_TRACKING_TOKEN"], frozenset({OPERATOR_AUDIENCE}))
        assert (claimed.user, claimed.role, claimed.attempt) == ("amina", Role.CONTRIBUTOR, Attempt("job1", "train", 2))
        assert variables["IDENTITY_HEADER"] == variables["MLFLOW_TRACKING_TOKEN"], "the SDK in a step logs in as it"
        assert process._is_running(workspace, Attempt("job1", "train", 2))
        assert not process._is_running(workspace, Attempt("job1", "train", 1)), "an earlier attempt"
        assert not process._is_running(workspace, Attempt("job1", "other", 2)), "another step"
        assert not process._is_running(workspace, Attempt("gone", "train", 2)), "a job that was deleted"
        workspace.services.records.steps.update(replace(step, status=StepStatus.COMPLETED))
        assert not process._is_running(workspace, Attempt("job1", "train", 2)), "a step that has ended"


def test_steps_and_workers_do_not_inherit_what_opens_the_server(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    header, key = identity_of(home, "baraka").header, operator_key(home)
    monkeypatch.setenv("IDENTITY_HEADER", header)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://mafunzo:{key}@127.0.0.1:8080/mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", header)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    serve(home, 0, 0, worker=NO_WORKER, on_up=stop)
    assert not {"IDENTITY_HEADER", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"} & set(os.environ)
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "mine"


def test_the_operator_s_names_and_pages_are_those_of_both_ports(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[Any] = []
    monkeypatch.setattr(
        process,
        "_serve_until_stopped",
        lambda workspace, own, loops, servers, on_up: apps.extend(server.config.app for server, _ in servers),
    )
    serve(home, 0, 0, worker=NO_WORKER, names=["Chat.example.org"], origins=["https://chat.example.org"])
    assert apps and {type(app) for app in apps} == {Cors}
    assert all("chat.example.org" in app._app.state.serving.names for app in apps)
    apps.clear()
    serve(home, 0, 0, worker=NO_WORKER)
    assert Cors not in [type(app) for app in apps]
    with pytest.raises(InvalidParameter, match="pages that may ask"):
        serve(home, 0, 0, worker=NO_WORKER, origins=["x"])
    with pytest.raises(InvalidParameter, match="server's names"):
        serve(home, 0, 0, worker=NO_WORKER, names=["*"])


def test_what_is_logged_goes_into_a_file_of_limited_size(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **given: options.update(given))
    levels = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "aiohttp", "asyncio", "uvicorn")}
    log_to(home)
    [handler] = options["handlers"]
    assert isinstance(handler, RotatingFileHandler)
    assert (Path(handler.baseFilename), handler.maxBytes) == (home.logs / "server.log", 10 * 2**20)
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO), "a line a request, with its address"
    handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
