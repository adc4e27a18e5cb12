"""The engine of a deployment's workers: chosen by what the model and this machine are, told to the worker, and shown."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.serving import engine as engines
from mafunzo.control.serving.engine import engine_of, require_computed, require_engine
from mafunzo.control.serving.memory import PROCESS_MB, booked, worker_memory
from mafunzo.control.store.artifact import Artifacts
from mafunzo.entities.endpoint import DeploymentStatus
from mafunzo.entities.engine import Engine
from mafunzo.entities.job import Resources
from mafunzo.errors import NotSupported
from tests.support.serving_bench import Bench
from tests.support.vllm_installed import install_package
from tests.unit.control.serving.test_memory import BF16, folder_of

LLAMA = {"model_type": "llama", "torch_dtype": "bfloat16"}
MACHINE = Resources(cpus=2, gpus=0, memory_mb=4000)
GPU = Resources(cpus=2, gpus=1, memory_mb=4000)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "is_installed", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.parametrize(
    ("config", "is_adapter", "capacity", "expected"),
    [
        pytest.param(LLAMA, False, MACHINE, "openvino", id="a known network, also one that was tuned and merged"),
        pytest.param({**LLAMA, "model_type": "mamba"}, False, MACHINE, "torch (openvino isn't known", id="another one"),
        pytest.param(LLAMA, True, MACHINE, "torch (openvino serves no adapter", id="an adapter"),
        pytest.param(LLAMA, False, Resources(2, 1, 4000), "torch (vllm isn't installed", id="a GPU"),
        pytest.param(
            LLAMA, False, Resources(2, 0, 300), "torch (converting it for openvino may take 1,860", id="no room"
        ),
    ],
)
def test_the_engine_follows_from_model_and_machine(
    config: dict[str, Any], is_adapter: bool, capacity: Resources, expected: str, tmp_path: Path
) -> None:
    artifacts = Artifacts(tmp_path / "store")
    folder = folder_of(tmp_path / "model", config, BF16=60)
    if is_adapter:
        (folder / "adapter_config.json").write_text("{}")
    base = artifact = artifacts.put(folder)  # what it was tuned from, also where that was merged
    assert str(engine_of(Engine.AUTO, artifacts, artifact, base, capacity)).startswith(expected)
    assert str(engine_of(Engine.TORCH, artifacts, artifact, base, capacity)) == "torch"


def test_a_worker_that_may_convert_books_for_it(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    artifact = artifacts.put(folder_of(tmp_path / "model", LLAMA, BF16=60))
    assert worker_memory(artifacts, [artifact], BF16, 4000, converts=True).booked_mb == 3 * 2 * 60 + PROCESS_MB


def test_an_engine_that_is_asked_for_and_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_engine(Engine.OPENVINO)
    monkeypatch.setattr(engines, "is_installed", lambda: False)
    for engine in (None, Engine.AUTO, Engine.TORCH):
        require_engine(engine)
    with pytest.raises(NotSupported, match=r"openvino, which isn't installed: pip install 'mafunzo\[openvino\]'"):
        require_engine(Engine.OPENVINO)


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """vLLM's package, as far as it is read; its registry's file."""
    package = install_package(tmp_path / "packages")
    monkeypatch.syspath_prepend(package)
    return package / "vllm" / engines.REGISTRY


def test_what_vllm_computes_is_read_without_importing_it(vllm: Path) -> None:
    assert engines.is_vllm_installed()
    names = {"LlamaForCausalLM", "Phi3ForCausalLM", "Gemma3ForConditionalGeneration"}
    assert engines.vllm_architectures() == names
    for text in ("def broken(", "_TEXT_GENERATION_MODELS = load()"):
        vllm.write_text(text)
        os.utime(vllm, ns=(0, len(text)))
        assert engines.vllm_architectures() is None
    vllm.unlink()
    assert engines.vllm_architectures() is None


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("LlamaForCausalLM", "vllm"), ("MambaForCausalLM", "torch (the vllm that is installed doesn't compute Mamba")],
)
def test_vllm_computes_what_its_package_lists_where_there_is_a_gpu(
    vllm: Path, architecture: str, expected: str, tmp_path: Path
) -> None:
    artifacts = Artifacts(tmp_path / "store")
    artifact = artifacts.put(folder_of(tmp_path / "model", {**LLAMA, "architectures": [architecture]}, BF16=60))
    assert str(engine_of(Engine.AUTO, artifacts, artifact, None, GPU)).startswith(expected)
    assert str(engine_of(Engine.AUTO, artifacts, artifact, None, MACHINE)) == "openvino"


def test_a_model_that_vllm_does_not_compute_is_refused_up_front(vllm: Path, tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    base = artifacts.put(folder_of(tmp_path / "base", {**LLAMA, "architectures": ["MambaForCausalLM"]}, BF16=60))
    (folder := tmp_path / "adapter").mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8, "use_dora": true}')
    adapter = artifacts.put(folder)
    require_engine(Engine.VLLM, GPU)
    require_computed(Engine.TORCH, artifacts, adapter, base, GPU)
    with pytest.raises(NotSupported, match="engine is vllm, which can't serve it") as refused:
        require_computed(Engine.VLLM, artifacts, adapter, base, MACHINE)
    assert refused.value.faults == (
        "vllm computes on a GPU, and there is none.",
        "the vllm that is installed doesn't compute MambaForCausalLM.",
        "vllm serves no adapter with DoRA.",
    )


def test_a_worker_of_vllm_books_a_gpu_and_says_which_share_it_takes(bench: Bench, vllm: Path) -> None:
    config = {**LLAMA, "architectures": ["LlamaForCausalLM"]}
    bench.supervisor.capacity = Resources(cpus=2, gpus=1, memory_mb=16000)
    deployment = bench.deploy(
        bench.artifacts.put(folder_of(bench.files / "model", config, ".", BF16=60)), engine=Engine.VLLM
    )
    memory = bench.supervisor._memory(deployment, bench.supervisor._engine(deployment))
    assert str(memory) == "5,760 MB: weights 60, process 5,700; and one GPU, of whose memory it takes 90%"
    assert booked(memory, bench.supervisor.capacity) == Resources(cpus=0, gpus=1, memory_mb=5760)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        pytest.param("openvino", "openvino", id="as chosen"),
        pytest.param("torch (the self-check failed)", "torch (the self-check failed)", id="another one instead"),
    ],
)
def test_what_a_worker_computes_with_is_shown(bench: Bench, told: str, shown: str) -> None:
    folder = folder_of(bench.files / "model", LLAMA, ".", BF16=1)
    (folder / "fake.json").write_text(json.dumps({"engine": told}))
    bench.deploy(bench.artifacts.put(folder), engine=Engine.OPENVINO)
    assert bench.settle(DeploymentStatus.HEALTHY).supervision.engine == shown
