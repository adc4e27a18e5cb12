"""The worker's process: what ends it before it serves."""

import socket
from pathlib import Path

import pytest

from mafunzo.compute.inference import worker
from mafunzo.control.serving.router import REQUESTS_AT_ONCE
from mafunzo.entrypoints.http.limits import DEFAULTS


def test_a_port_in_use_ends_the_worker_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        argv = ["--model", str(tmp_path), "--name", "x", "--port", str(port), "--port-file", str(tmp_path / "port")]
        assert worker._Worker(worker._arguments(argv)).run() == 3
    assert f"Port {port} can't be listened on" in capsys.readouterr().err
    assert not (tmp_path / "port").exists()


def test_the_router_gives_a_worker_as_many_requests_as_it_answers_at_once() -> None:
    assert (
        worker._arguments(["--model", "m", "--name", "chat"]).max_batch == REQUESTS_AT_ONCE == DEFAULTS.requests_at_once
    )
