"""Several tuned versions of one base in one real worker: added, asked, restarted and removed while it answers."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from mafunzo import Workspace
from mafunzo.compute.inference.engine import GREEDY
from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.loading import load_model
from mafunzo.compute.inference.request import GenerationRequest
from mafunzo.control.launcher.local import LocalLauncher, Running
from mafunzo.control.serving.worker_folder import adapter_folder_of, worker_folder
from mafunzo.entities.adapter import AdapterStatus
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.entities.endpoint import DeploymentStatus
from mafunzo.errors import InvalidParameter, ServingMismatch
from tests.support.tiny_packages import make_base, package, tune
from tests.support.waiting import LIMIT_S, until

pytestmark = pytest.mark.slow
ASK: list[Any] = [{"role": "user", "content": "Do you like it there?"}]
TOKENS = 24


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("packages")
    base = make_base(root / "base", "tiny-llama")
    made = {"base": base, "other-base": make_base(root / "other-base", "tiny-llama", 7)}
    for seed, name in enumerate(("red", "blue"), 1):
        tune(base, root / name / "tuned", seed, std=0.3)
        made[name] = package(root / name, base, root / name / "tuned", is_merged=False)
    made["merged"] = package(root / "merged", base, root / "red" / "tuned", is_merged=True)
    return made


@pytest.fixture
def workspace(tmp_path: Path, packages: dict[str, Path]) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home", port=0) as opened:
        for name, folder in packages.items():
            opened.models.register(folder, name=name)
        try:
            yield opened
        finally:
            opened.down()


def solo(folder: Path, base: Path) -> str:
    """What the model answers alone in an engine of its own."""
    service = Service("chat", load_model(folder, None if folder == base else base, device="cpu"))
    prompt = service.prompt_ids(Conversation((Message("user", ASK[0]["content"]),)), True)
    try:
        request = GenerationRequest(tuple(prompt), TOKENS, GREEDY, ignore_eos=True)
        return service.loaded.engine.submit(request).reply().text
    finally:
        service.loaded.engine.close()


def streamed(client: openai.OpenAI, model: str) -> str:
    chunks = client.chat.completions.create(
        model=model,
        messages=ASK,
        temperature=0,
        max_tokens=TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def spoiled(folder: Path, to: Path) -> Path:
    """Write a package that answers otherwise than its evaluation says."""
    shutil.copytree(folder, to)
    file = to / "serving_reference.json"
    reference = json.loads(file.read_text())
    for row in reference["rows"]:
        row["logprobs"] = [None if one is None else one - 1 for one in row["logprobs"]]
    file.write_text(json.dumps(reference))
    return to


def spoil_on_worker(workspace: Workspace, adapter: str) -> None:
    """Have a worker's copy of an adapter's package say that the base was evaluated."""
    worker = workspace.deployments.get("chat", "default")
    file = adapter_folder_of(workspace.home, worker, worker.adapters[adapter].artifact) / "serving_reference.json"
    body = json.loads(file.read_text())
    for row in body["rows"]:
        row["logprobs"] = row["base_logprobs"]
    file.unlink()  # the store's own file is linked here
    file.write_text(json.dumps(body))


def check_proofs(workspace: Workspace) -> None:
    """Each model, adapter and engine has its row; one that differs hides no other, and is proven again from the store."""
    handle = workspace.endpoints.get("chat")
    spoil_on_worker(workspace, "blue")
    proofs = handle.verify()
    assert [(proof.deployment, proof.adapter, str(proof.result), proof.stored, proof.engine) for proof in proofs] == [
        ("default", None, "unverified", "weights", "torch"),
        ("default", "blue", "refused", "adapter", "torch"),
        ("default", "red", "verified", "adapter", "torch"),
        ("merged", None, "verified", "merge", "openvino"),
    ]
    for proof in proofs[2:]:
        assert (proof.dtype, proof.reference_dtype, proof.perplexity_ratio) == ("float32", "float32", None)
        assert (proof.rows, proof.exact_rows) == (3, 3)
        assert proof.largest_difference is not None and proof.largest_difference < 1e-3
        assert proof.greedy_positions and proof.greedy_equal == proof.greedy_positions
    until(lambda: workspace.deployments.get("chat", "default").adapter_status("blue") is AdapterStatus.LIVE)
    assert [str(proof.result) for proof in handle.proofs()] == ["unverified", "verified", "verified", "verified"]
    assert all(proof.has_passed for proof in handle.verify())


def test_two_adapters_answer_beside_their_base_as_alone_and_are_there_after_a_kill(
    workspace: Workspace, packages: dict[str, Path], tmp_path: Path
) -> None:
    handle = workspace.deploy("base", endpoint="chat", engine="torch")
    for name in ("red", "blue"):
        added = workspace.adapters.add("chat", name, name, timeout_s=LIMIT_S)
        assert (added.status, (added.verification or {})["result"]) == (AdapterStatus.LIVE, "verified")
    assert workspace.deployments.get("chat", "default").attempt == 1, "without a restart"
    workspace.deploy("merged", endpoint="chat", deployment="merged", engine="openvino", timeout_s=LIMIT_S)
    check_proofs(workspace)
    handle.delete_deployment("merged")

    base = packages["base"]
    expected = {"chat": solo(base, base)} | {f"chat:{name}": solo(packages[name], base) for name in ("red", "blue")}
    assert len(set(expected.values())) == 3
    clients = [openai.OpenAI(base_url=handle.url, api_key=key, max_retries=0) for key in handle.keys]
    assert [model.id for model in clients[0].models.list()] == ["chat", "chat:blue", "chat:red"]
    asked = [(clients[number % 2], model) for number, model in enumerate([*expected] * 4)]

    def all_answers() -> list[str]:
        with ThreadPoolExecutor(len(asked)) as threads:
            return list(threads.map(lambda one: streamed(*one), asked))

    assert all_answers() == [expected[model] for _, model in asked]

    workspace.models.register(spoiled(packages["red"], tmp_path / "spoiled"), name="spoiled")
    with pytest.raises(ServingMismatch) as refused:
        workspace.adapters.add("chat", "bad", "spoiled", timeout_s=LIMIT_S)
    assert refused.value.faults[0].startswith("adapter: row"), "all are as far apart; rounding says which is told of"
    with pytest.raises(InvalidParameter, match="neither adapter_config"):
        workspace.adapters.add("chat", "merged", "other-base")

    worker = workspace.deployments.get("chat", "default")
    status = LocalLauncher().status(worker_folder(workspace.home, worker))
    assert isinstance(status, Running)
    [process] = psutil.Process(status.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: workspace.deployments.get("chat", "default").attempt == 2)
    until(lambda: workspace.deployments.get("chat", "default").status is DeploymentStatus.HEALTHY)
    assert all_answers() == [expected[model] for _, model in asked], "requests wait until the adapter is proven again"

    workspace.adapters.remove("chat", "red", timeout_s=LIMIT_S)
    with pytest.raises(openai.NotFoundError, match="has no adapter 'red'"):
        streamed(clients[0], "chat:red")
    assert streamed(clients[0], "chat:blue") == expected["chat:blue"]
    assert [report.model_name for report in workspace.adapters.list("chat")] == ["chat:blue"]
