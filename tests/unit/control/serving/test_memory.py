"""What a worker's weights take, from the headers of their files."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.control.serving.memory import (
    LEAST_TOKENS,
    PROCESS_MB,
    cache_bytes_per_token,
    half_bytes,
    weights_mb,
    worker_memory,
)
from mafunzo.control.store.artifact import Artifacts
from mafunzo.entities.compute import HalfFormats
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


def test_only_16_bit_weights_are_half_bytes(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    base = artifacts.put(folder_of(tmp_path / "base", {"torch_dtype": "bfloat16"}, ".", BF16=2, F32=1))
    other = artifacts.put(folder_of(tmp_path / "other", {"torch_dtype": "float16"}, F16=1))
    assert half_bytes(artifacts, [base, other]) == 3 * MB


def test_the_header_of_weights_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(tmp_path / "store")
    artifact = artifacts.put(folder_of(tmp_path / "model", {"torch_dtype": "bfloat16"}, BF16=3))
    weights, opened = artifacts.open_file(artifact, "data/model/model.safetensors"), list[Path]()
    original = Path.open

    def count(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(path)
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", count)
    assert half_bytes(artifacts, [artifact]) == 3 * MB
    assert weights_mb(artifacts, [artifact], NONE) == 6
    assert opened.count(weights) == 1


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
    monkeypatch.setattr("mafunzo.control.serving.supervisor.half_formats", lambda has_gpu: HalfFormats())
    bench.deploy(bench.artifacts.put(folder))
    bench.supervisor.tick()
    [lease] = bench.leases.list()
    assert lease.resources == Resources(cpus=0, gpus=0, memory_mb=760)


SMOLLM2 = {
    "dtype": "bfloat16",
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "max_position_embeddings": 8192,
}
PHI3 = {
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_size": 3072,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_scaling": {"type": "longrope"},
}


@pytest.mark.parametrize(
    ("config", "computes", "expected"),
    [
        pytest.param(SMOLLM2, BF16, 2 * 30 * 3 * 64 * 2, id="fewer key heads"),
        pytest.param(SMOLLM2, NONE, 2 * 30 * 3 * 64 * 4, id="computed in float32"),
        pytest.param({**SMOLLM2, "head_dim": 128}, BF16, 2 * 30 * 3 * 128 * 2, id="a width of its own"),
        pytest.param({"text_config": SMOLLM2}, NONE, 2 * 30 * 3 * 64 * 4, id="an inner network"),
        pytest.param({"n_layer": 12, "n_head": 12, "n_embd": 768}, BF16, 2 * 12 * 12 * 64 * 4, id="GPT-2's names"),
        pytest.param({"num_hidden_layers": 30}, BF16, 0, id="not said"),
        pytest.param({**SMOLLM2, "num_attention_heads": "9"}, BF16, 0, id="no number"),
    ],
)
def test_a_token_takes_a_key_and_a_value_in_each_layer(
    config: dict[str, Any], computes: frozenset[str], expected: int
) -> None:
    assert cache_bytes_per_token(config, computes) == expected


@pytest.mark.parametrize(
    ("config", "free_mb", "cache_mb", "longest"),
    [
        # 23,040 bytes a token: 16 conversations of 8,192 tokens and one more each, rounded up
        pytest.param(SMOLLM2, 23_000, 2881, 8192, id="as much as it can use"),
        pytest.param(SMOLLM2, 3_703, int(0.4 * 3000), 8192, id="a share of what is free"),
        pytest.param(SMOLLM2, 800, 46, 2092, id="what it needs at least"),
        # 393,216 bytes a token: 2,049 of them
        pytest.param(PHI3, 1_000, 769, 2049, id="what one conversation needs at least"),
        pytest.param(PHI3, 100_000, 24582, 4096, id="no more than is served of a context"),
    ],
)
def test_a_worker_books_the_cache_that_it_may_use(
    config: dict[str, Any], free_mb: int, cache_mb: int, longest: int, tmp_path: Path
) -> None:
    artifacts = Artifacts(tmp_path / "store")
    artifact = artifacts.put(folder_of(tmp_path / "model", config, BF16=3))
    memory = worker_memory(artifacts, [artifact], BF16, free_mb)
    assert (memory.cache_mb, memory.booked_mb) == (cache_mb, 3 + cache_mb + PROCESS_MB)
    tokens = cache_mb * MB // cache_bytes_per_token(config, BF16)
    assert str(memory) == (
        f"{3 + cache_mb + 700:,} MB: weights 3, process 700, cache {cache_mb:,} ({tokens:,} tokens, {longest:,} a conversation)"
    )
    assert tokens > LEAST_TOKENS


def test_an_accelerator_s_cache_is_not_booked(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "store")
    artifact = artifacts.put(folder_of(tmp_path / "model", SMOLLM2, BF16=3))
    memory = worker_memory(artifacts, [artifact], BF16, 10_000, has_gpu=True)
    assert (memory.cache_mb, str(memory)) == (None, "703 MB: weights 3, process 700")


def test_a_worker_is_told_the_cache_that_was_booked_for_it_and_so_are_people(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mafunzo.control.serving.supervisor.half_formats", lambda has_gpu: HalfFormats(BF16))
    folder = folder_of(bench.files / "model", SMOLLM2, ".", BF16=3)
    (folder / "fake.json").write_text("{}")
    started: list[str] = []
    start = LocalLauncher.start

    def note(self: LocalLauncher, argv: Any, *more: Any) -> Any:
        started.append(" ".join(argv))
        return start(self, argv, *more)

    monkeypatch.setattr(LocalLauncher, "start", note)
    artifact = bench.artifacts.put(folder)
    bench.deploy(artifact)
    bench.deploy(artifact, name="green")
    bench.supervisor.tick()
    first = int(0.4 * (4000 - 3 - 700))
    second = int(0.4 * (4000 - (first + 703) - 3 - 700))
    assert sorted(lease.resources.memory_mb for lease in bench.leases.list()) == [second + 703, first + 703]
    for name, cache_mb, argv in zip(("blue", "green"), (first, second), started, strict=True):
        assert f"cache {cache_mb:,} (" in bench.find(name=name).supervision.memory
        assert f"--cache-mb {cache_mb}" in argv
