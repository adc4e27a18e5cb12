"""What a worker's weights take, from the headers of their files."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.serving.memory import weights_mb
from mafunzo.control.store.artifact import Artifacts
from mafunzo.entities.job import Resources
from tests.support.serving_bench import Bench

MB = 2**20
BF16, NONE = frozenset({"bfloat16"}), frozenset[str]()


def folder_of(root: Path, config: Any, place: str = "data/model", **tensors_mb: int) -> Path:
    """A model whose weights have so many megabytes of each number format."""
    (folder := root / place).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, at = {}, 0
    for dtype, size in tensors_mb.items():
        header[dtype.lower()] = {"dtype": dtype, "shape": [1], "data_offsets": [at, at + size * MB]}
        at += size * MB
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    return root


@pytest.mark.parametrize(
    ("config", "tensors_mb", "computes", "expected_mb"),
    [
        pytest.param({"torch_dtype": "bfloat16"}, {"BF16": 3}, BF16, 3, id="computed as stored"),
        pytest.param({"torch_dtype": "bfloat16"}, {"BF16": 3}, NONE, 6, id="computed in float32"),
        pytest.param({"dtype": "float16"}, {"F16": 2, "F32": 3}, BF16, 7, id="only 16-bit weights grow"),
        pytest.param({"text_config": {"dtype": "bfloat16"}}, {"BF16": 1}, NONE, 2, id="an inner network's"),
        pytest.param({"torch_dtype": "float32"}, {"F32": 3}, NONE, 3, id="float32"),
        pytest.param({}, {"BF16": 3}, NONE, 3, id="nothing said: as stored"),
        pytest.param([], {"BF16": 3}, NONE, 3, id="no configuration"),
    ],
)
def test_weights_take_what_the_worker_makes_of_them(
    config: Any, tensors_mb: dict[str, int], computes: frozenset[str], expected_mb: int, tmp_path: Path
) -> None:
    artifacts = Artifacts(tmp_path / "store")
    artifact = artifacts.put(folder_of(tmp_path / "model", config, **tensors_mb))
    assert weights_mb(artifacts, [artifact], computes) == expected_mb


def test_a_base_and_its_adapter_are_added_up(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    base = artifacts.put(folder_of(tmp_path / "base", {"torch_dtype": "bfloat16"}, ".", BF16=2))
    (adapter := tmp_path / "adapter").mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(bytes(MB))
    assert weights_mb(artifacts, [artifacts.put(adapter), base], NONE) == 5


@pytest.mark.parametrize("content", [b"", b"x" * 9, b"\xff" * 16, (2).to_bytes(8, "little") + b"[]"])
def test_a_damaged_file_counts_as_it_is_listed(content: bytes, tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    folder = folder_of(tmp_path / "model", {"torch_dtype": "bfloat16"}, BF16=1)
    (folder / "data/model/model.safetensors").write_bytes(content)
    assert weights_mb(artifacts, [artifacts.put(folder)], NONE) == 0


def test_a_worker_books_float32_where_the_machine_does_not_compute_what_is_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(bench.files / "model", {"torch_dtype": "bfloat16"}, ".", BF16=30)
    (folder / "fake.json").write_text("{}")
    monkeypatch.setattr("mafunzo.control.serving.supervisor.half_formats", lambda has_gpu: NONE)
    bench.deploy(bench.artifacts.put(folder))
    bench.supervisor.tick()
    [lease] = bench.leases.list()
    assert lease.resources == Resources(cpus=0, gpus=0, memory_mb=760)
