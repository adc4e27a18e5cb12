"""A deployment that vLLM computes, with a stand-in for the command `vllm`: real server, worker and processes."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from mafunzo import Workspace
from mafunzo.compute.components.tiny_model import make
from mafunzo.control.serving.worker_folder import worker_folder
from mafunzo.entities.adapter import AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from mafunzo.tracking.step_folder import STEP_FOLDER, StepFolder
from tests.flows.test_adapters import ASK, solo, streamed
from tests.flows.test_worker import start
from tests.support.process import lives
from tests.support.tiny_packages import make_base, package, tune
from tests.support.vllm_installed import ONLY_HEALTHY, install
from tests.support.waiting import LIMIT_S, until

pytestmark = pytest.mark.slow


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    base = make_base(tmp_path / "base", "tiny-llama")
    tune(base, tmp_path / "red" / "tuned", 1, std=0.3)
    return {"base": base, "red": package(tmp_path / "red", base, tmp_path / "red" / "tuned", is_merged=False)}


@pytest.fixture
def workspace(tmp_path: Path, packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    install(tmp_path / "machine", monkeypatch)
    with Workspace(tmp_path / "home", port=0) as opened:
        for name, folder in packages.items():
            opened.models.register(folder, name=name)
        try:
            yield opened
        finally:
            opened.down()


def processes(workspace: Workspace, words: str) -> list[psutil.Process]:
    """The processes of workers whose command line has these words."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get(STEP_FOLDER, "").startswith(str(workspace.home.workers.resolve()))
            if is_ours and words in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def log(workspace: Workspace, deployment: Deployment) -> str:
    return StepFolder(worker_folder(workspace.home, deployment)).log.read_text()


def test_vllm_serves_a_model_with_adapters_and_is_replaced_when_it_dies(
    workspace: Workspace, packages: dict[str, Path]
) -> None:
    handle = workspace.deploy("base", endpoint="chat", engine="vllm", timeout_s=LIMIT_S)
    deployment = workspace.deployments.get("chat", "default")
    assert deployment.supervision.engine == "vllm"
    assert "and one GPU, of whose memory it takes 90%" in deployment.supervision.memory
    added = workspace.adapters.add("chat", "red", "red", timeout_s=LIMIT_S)
    assert (added.status, (added.verification or {})["result"]) == (AdapterStatus.LIVE, "verified")

    proofs = [(proof.adapter, str(proof.result), proof.engine) for proof in handle.verify()]
    assert proofs == [(None, "unverified", "vllm"), ("red", "verified", "vllm")]
    red = handle.proofs()[1]
    assert red.greedy_positions and red.greedy_equal == red.greedy_positions

    base = packages["base"]
    expected = {"chat": solo(base, base), "chat:red": solo(packages["red"], base)}
    client = openai.OpenAI(base_url=handle.url, api_key=handle.keys[0], max_retries=0)
    assert {model: streamed(client, model) for model in expected} == expected

    options: dict[str, Any] = {"messages": ASK, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}
    with client.chat.completions.create(model="chat", stream=True, **options) as stream:
        next(iter(stream))
    until(lambda: "stand-in: a client left" in log(workspace, deployment), lambda: log(workspace, deployment))

    [vllm] = [
        one
        for one in processes(workspace, "vllm_stand_in")
        if f"chat/default/{deployment.attempt}/" in str(one.cmdline())
    ]
    vllm.kill()
    until(lambda: workspace.deployments.get("chat", "default").attempt > deployment.attempt)
    until(lambda: workspace.deployments.get("chat", "default").status is DeploymentStatus.HEALTHY)
    assert "vLLM ended, with signal 9" in log(workspace, deployment)
    assert streamed(client, "chat") == expected["chat"]
    until(lambda: [one.status for one in workspace.adapters.list("chat")] == [AdapterStatus.LIVE])
    assert streamed(client, "chat:red") == expected["chat:red"]

    workspace.adapters.remove("chat", "red", timeout_s=LIMIT_S)
    with pytest.raises(openai.NotFoundError):
        streamed(client, "chat:red")
    workspace.down()
    assert processes(workspace, "") == []


def test_a_worker_that_is_told_to_end_ends_its_vllm_with_all_of_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("tiny-llama", 1, tmp_path / "model")
    (commands := tmp_path / "bin").mkdir()
    (commands / "vllm").write_text(f"#!{sys.executable}\n{ONLY_HEALTHY}")
    (commands / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    worker = start(tmp_path / "worker", tmp_path / "model", "--engine", "vllm")
    worker.wait_until("/health", 200)
    assert worker.get("/info").json()["engine"] == "vllm"
    pid = int(Path("told").read_text().split()[0])
    vllm = os.getpgid(pid)
    assert lives(pid) and lives(vllm)
    assert worker.end() == 0, worker.log.read_text()
    until(lambda: not lives(pid) and not lives(vllm))
