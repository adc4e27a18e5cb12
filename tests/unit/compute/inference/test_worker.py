"""The worker's process: what ends it before it serves."""

import os
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


def test_a_worker_ends_with_its_vllm_and_quietly_where_it_was_told_to(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (commands := tmp_path / "bin").mkdir()
    (commands / "vllm").write_text("#!/bin/sh\nexit 7\n")
    (commands / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    argv = ["--model", str(tiny_llama), "--name", "x", "--engine", "vllm"]
    failing = worker._Worker(worker._arguments(argv))
    failing._load()
    assert (failing._exit_code, failing._server.should_exit) == (1, True)
    assert "vLLM ended before it was ready, with exit code 7" in capsys.readouterr().err
    ending = worker._Worker(worker._arguments(argv))
    for one in (failing, ending):
        assert one._vllm is not None
        one._vllm.end()
    ending._load()
    assert (ending._exit_code, capsys.readouterr().err) == (0, "")
    ending._end_after("vLLM ended, with signal 9")
    assert (ending._exit_code, ending._server.should_exit) == (1, True)
    assert "vLLM ended, with signal 9. The worker ends with it." in capsys.readouterr().err
