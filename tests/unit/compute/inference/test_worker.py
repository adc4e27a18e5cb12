"""The worker's process: what ends it before it serves."""

import os
import socket
from pathlib import Path

import pytest

from mafunzo.compute.inference import worker


class Ended(Exception):
    """The process would be gone."""


def test_a_port_in_use_ends_the_worker_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        argv = ["--model", str(tmp_path), "--name", "x", "--port", str(port), "--port-file", str(tmp_path / "port")]
        with pytest.raises(Ended, match=r"^3$"):
            worker.main([*argv, "--threads", "1"])
    assert f"Port {port} can't be listened on" in capsys.readouterr().err
    assert not (tmp_path / "port").exists()
