"""vLLM's process as a child: started, watched, and ended with all processes of its own."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mafunzo.compute.inference.vllm_server import VllmModel, VllmServer
from mafunzo.errors import NotSupported, WorkerFailed
from tests.support.process import lives
from tests.support.vllm_installed import ONLY_HEALTHY
from tests.support.waiting import until

MODEL = VllmModel(Path("network"), Path("tokenizer"), "float32", 2048, 16, 64)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes a server of a program, which works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_API_KEY", "the user's own")
    servers = []

    def make(program: str, on_end: Callable[[str], None] = lambda reason: None) -> VllmServer:
        servers.append(VllmServer(on_end, (sys.executable, "-c", program)))
        return servers[-1]

    yield make
    for server in servers:
        server.end()


def told() -> tuple[int, str, str]:
    pid, key, updating = Path("told").read_text().split()
    return int(pid), key, updating


def test_it_ends_with_all_of_its_processes_and_its_socket(made: Any) -> None:
    reasons: list[str] = []
    server = made(ONLY_HEALTHY, reasons.append)
    server.start(MODEL)
    pid, key, updating = told()
    assert (key, updating) == (server.key, "True"), "its own key, not the user's"
    assert os.stat(server.socket.parent).st_mode & 0o777 == 0o700
    [process] = [one for one in psutil.Process().children() if one.pid == os.getpgid(pid)]
    server.end()
    until(lambda: not lives(pid) and not lives(process.pid))
    assert not server.socket.parent.exists()
    server.end()  # once more changes nothing
    assert reasons == []
    with pytest.raises(WorkerFailed, match="The worker is ending"):
        server.start(MODEL)


def test_its_end_is_told_where_nobody_asked_for_it(made: Any) -> None:
    reasons: list[str] = []
    server = made(ONLY_HEALTHY, reasons.append)
    server.start(MODEL)
    os.kill(os.getpgid(told()[0]), signal.SIGKILL)
    until(lambda: reasons)
    assert reasons == ["vLLM ended, with signal 9"]


def test_an_end_before_it_is_ready_is_a_failure(made: Any) -> None:
    reasons: list[str] = []
    with pytest.raises(WorkerFailed, match=r"vLLM ended before it was ready, with exit code 7\. Its log says why"):
        made("raise SystemExit(7)", reasons.append).start(MODEL)
    assert reasons == []


def test_a_missing_command_is_refused_with_what_to_do() -> None:
    server = VllmServer(lambda reason: None, ("no-such-command",))
    with pytest.raises(NotSupported, match=r"no command 'no-such-command': pip install 'mafunzo\[vllm\]', or take"):
        server.start(MODEL)
    server.end()
