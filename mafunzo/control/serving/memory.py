"""The memory that a worker takes: its weights, its KV cache, and its process.

Weights take what their files have, in the number format in which the worker computes. The cache takes a key and a value for
each token of each conversation under way: it is booked as large as it can get, within a share of what is free.
A worker holds bfloat16 and float16 weights as they are stored where the device computes in them, else as float32, which takes
twice (`entities/compute.py`, `compute/inference/executor_torch.py`). A file that is missing or damaged counts as it is listed:
its check is elsewhere.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mafunzo.control.launcher.hardware import half_formats
from mafunzo.control.store.artifact import Artifacts
from mafunzo.entities.engine import CONVERSION_FACTOR
from mafunzo.entities.job import Resources

HALF = frozenset({"BF16", "F16"})
"""Names of 16-bit floats in safetensors' headers."""
LENGTH_BYTES = 8
LONGEST_HEADER = 100 * 2**20
"""As safetensors itself has it."""

LAYERS, HEADS, WIDTH = (
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("hidden_size", "n_embd"),
)
"""Their names in configurations, GPT-2's too."""
PROCESS_MB = 700
"""The interpreter, torch and its libraries, and what a forward needs on the way."""
VLLM_MB = 5000
"""vLLM's own two processes on the CPU's side, with CUDA's libraries, beside the worker's; as vLLM's makers speak of it, not
measured here. Weights are booked too: they pass through memory on their way to the GPU."""
MAX_BATCH = 16
"""Conversations that a worker answers at once (its `--max-batch`)."""
CACHE_SHARE = 0.4
"""Of what is left beside weights and process: the rest is for others."""
LEAST_TOKENS = 2048
"""What the cache holds at least: one conversation of so many tokens, or of the whole context."""


@dataclass(frozen=True)
class WorkerMemory:
    """What a worker books. cache_mb: None where it isn't known here, as on an accelerator, whose memory isn't booked.
    cache_tokens: of all conversations together; context_tokens: of the longest. adapters_mb: of those beside its model.
    gpu_share: of the memory of its GPU, where it takes a share that is known; it has the GPU for itself either way.
    """

    weights_mb: int
    cache_mb: int | None = None
    cache_tokens: int = 0
    context_tokens: int = 0
    adapters_mb: int = 0
    process_mb: int = PROCESS_MB
    gpu_share: float | None = None

    @property
    def booked_mb(self) -> int:
        return self.weights_mb + self.adapters_mb + (self.cache_mb or 0) + self.process_mb

    def __str__(self) -> str:
        text = f"{self.booked_mb:,} MB: weights {self.weights_mb:,}, process {self.process_mb:,}"
        text += f", adapters {self.adapters_mb:,}" if self.adapters_mb else ""
        text += f"; and one GPU, of whose memory it takes {self.gpu_share:.0%}" if self.gpu_share else ""
        if self.cache_mb is None:
            return text
        longest = min(self.context_tokens, self.cache_tokens - 1)
        return f"{text}, cache {self.cache_mb:,} ({self.cache_tokens:,} tokens, {longest:,} a conversation)"


def worker_memory(
    artifacts: Artifacts,
    hashes: Iterable[str],
    computes: frozenset[str],
    free_mb: int,
    has_gpu: bool = False,
    converts: bool = False,
) -> WorkerMemory:
    """Return what a worker of these models books of `free_mb`, which is less where less is free, down to what it needs.

    converts: whether it may convert its network for another engine, and compare the two.
    """
    hashes = list(hashes)
    weights = (
        CONVERSION_FACTOR * weights_mb(artifacts, hashes, frozenset())
        if converts
        else weights_mb(artifacts, hashes, computes)
    )
    config = next((config for artifact in hashes for config in _configs(artifacts, artifact) if config), {})
    per_token = 0 if has_gpu else cache_bytes_per_token(config, computes)
    context = _context_tokens(config)
    if not per_token or not context:
        return WorkerMemory(weights)
    most, least = (
        _megabytes(per_token * tokens) for tokens in (MAX_BATCH * (context + 1), min(context, LEAST_TOKENS) + 1)
    )
    share = int(CACHE_SHARE * (free_mb - weights - PROCESS_MB))
    cache_mb = max(least, min(most, share))
    return WorkerMemory(weights, cache_mb, cache_mb * 2**20 // per_token, context)


def adapter_mb(artifacts: Artifacts, artifact: str) -> int:
    """Return what an adapter takes in a worker's memory at most: its weights, the 16-bit ones as float32."""
    weights = [file for file in artifacts.manifest(artifact) if file.path.endswith(".safetensors")]
    return _megabytes(sum(file.size for file in weights) + half_bytes(artifacts, [artifact]))


def least_resources(artifacts: Artifacts, hashes: Sequence[str], capacity: Resources) -> Resources:
    """Return what a worker of these models books where others leave nothing to spare."""
    has_gpu = capacity.gpus > 0
    formats = half_formats(has_gpu).held(half_bytes(artifacts, hashes), capacity.memory_mb * 2**20)
    return booked(worker_memory(artifacts, hashes, formats, 0, has_gpu), capacity)


def booked(memory: WorkerMemory, capacity: Resources) -> Resources:
    """Return what a worker books: no core, since it is idle in between, and one of the GPUs that there are."""
    return Resources(cpus=0, gpus=min(1, capacity.gpus), memory_mb=memory.booked_mb)


def in_words(resources: Resources) -> str:
    """Return what is booked, or what there is to book, for people."""
    parts = [f"{resources.memory_mb} MB"]
    parts += [f"{resources.cpus} cores"] if resources.cpus else []
    parts += [f"{resources.gpus} GPUs"] if resources.gpus else []
    return ", ".join(parts)


def cache_bytes_per_token(config: Mapping[str, Any], computes: frozenset[str]) -> int:
    """Return what a token's keys and values take in all layers; 0 where a configuration doesn't say it."""
    network = _network(config)
    layers, heads, width = (_number(network, *names) for names in (LAYERS, HEADS, WIDTH))
    if not layers or not heads or not width:
        return 0
    key_heads = _number(network, "num_key_value_heads") or heads
    head_width = _number(network, "head_dim") or width // heads
    item_bytes = 2 if _dtype(config) in computes else 4
    return 2 * layers * key_heads * head_width * item_bytes


def _context_tokens(config: Mapping[str, Any]) -> int:
    """Return the longest conversation that is served: one whose positions don't depend on what stands beside it."""
    network = _network(config)
    longest = _number(network, "max_position_embeddings", "n_positions")
    rope = network.get("rope_parameters") or network.get("rope_scaling")
    kind = (rope.get("rope_type") or rope.get("type")) if isinstance(rope, dict) else None
    if isinstance(rope, dict) and kind in ("longrope", "dynamic"):
        name = "original_max_position_embeddings"
        return min(longest, _number(rope, name) or _number(network, name) or longest)
    return longest


def _network(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _number(body: Mapping[str, Any], *names: str) -> int:
    values = (body.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), 0)


def _megabytes(count: int) -> int:
    return -(-count // 2**20)


def model_type(artifacts: Artifacts, artifact: str) -> str:
    """Return the architecture of a model as its configuration names it, or an empty text."""
    return next((str(config["model_type"]) for config in _configs(artifacts, artifact) if config.get("model_type")), "")


def architectures(artifacts: Artifacts, hashes: Iterable[str]) -> tuple[str, ...]:
    """Return the classes of a network, as the first configuration that names any does (`LlamaForCausalLM`)."""
    for config in (config for artifact in hashes for config in _configs(artifacts, artifact)):
        names = config.get("architectures")
        if isinstance(names, list) and names:
            return tuple(map(str, names))
    return ()


def half_bytes(artifacts: Artifacts, hashes: Iterable[str]) -> int:
    """Return how many bytes of models' weights are 16-bit floats."""
    files = [(artifact, file.path) for artifact in hashes for file in artifacts.manifest(artifact)]
    return sum(_half_bytes(artifacts.open_file(*file)) for file in files if file[1].endswith(".safetensors"))


def weights_mb(artifacts: Artifacts, hashes: Iterable[str], computes: frozenset[str]) -> int:
    """Return what the files of models take in a worker's memory; `computes` are the 16-bit formats that it holds as stored."""
    return sum(_loaded_bytes(artifacts, artifact, computes) for artifact in hashes) // 2**20


def _loaded_bytes(artifacts: Artifacts, artifact: str, computes: frozenset[str]) -> int:
    files = {file.path: file.size for file in artifacts.manifest(artifact)}
    dtypes = [_dtype(config) for config in _configs(artifacts, artifact)]
    is_widened = any(dtype in ("bfloat16", "float16") and dtype not in computes for dtype in dtypes)
    weights = [path for path in files if is_widened and path.endswith(".safetensors")]
    return sum(files.values()) + sum(_half_bytes(artifacts.open_file(artifact, path)) for path in weights)


def _configs(artifacts: Artifacts, artifact: str) -> list[Mapping[str, Any]]:
    paths = [file.path for file in artifacts.manifest(artifact)]
    return [_config(artifacts.open_file(artifact, path)) for path in paths if path.rpartition("/")[2] == "config.json"]


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _dtype(config: Mapping[str, Any]) -> str:
    """Return the number format that a network's configuration names, where the worker looks for it."""
    inner = config.get("text_config")
    return str(
        config.get("dtype") or config.get("torch_dtype") or (inner.get("dtype") if isinstance(inner, dict) else "")
    )


def _half_bytes(path: Path) -> int:
    """Return how many bytes of a safetensors file are 16-bit floats."""
    try:
        return _half_bytes_listed(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return 0


@lru_cache(maxsize=256)  # the weights of a start are asked after twice, and those of a deployment at each start
def _half_bytes_listed(path: Path, mtime_ns: int) -> int:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        tensors = json.loads(file.read(min(length, LONGEST_HEADER)))
    spans = [tensor["data_offsets"] for tensor in tensors.values() if tensor.get("dtype") in HALF]
    return sum(int(end) - int(begin) for begin, end in spans)
