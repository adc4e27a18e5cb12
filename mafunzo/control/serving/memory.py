"""The memory that a worker's weights take: what their files have, in the number format in which the worker computes.

A worker holds bfloat16 and float16 weights as they are stored where the device multiplies them, else as float32, which takes
twice (`compute/inference/executor_torch.py`). A file that is missing or damaged counts as it is listed: its check is elsewhere.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mafunzo.control.store.artifact import Artifacts

HALF = frozenset({"BF16", "F16"})
"""Names of 16-bit floats in safetensors' headers."""
LENGTH_BYTES = 8
LONGEST_HEADER = 100 * 2**20
"""As safetensors itself has it."""


def weights_mb(artifacts: Artifacts, hashes: Iterable[str], computes: frozenset[str]) -> int:
    """Return what the files of models take in a worker's memory; `computes` are the 16-bit formats that it computes in."""
    return sum(_loaded_bytes(artifacts, artifact, computes) for artifact in hashes) // 2**20


def _loaded_bytes(artifacts: Artifacts, artifact: str, computes: frozenset[str]) -> int:
    files = {file.path: file.size for file in artifacts.manifest(artifact)}
    configs = [
        _config(artifacts.open_file(artifact, path)) for path in files if path.rpartition("/")[2] == "config.json"
    ]
    is_widened = any(dtype in ("bfloat16", "float16") and dtype not in computes for dtype in map(_dtype, configs))
    weights = [path for path in files if is_widened and path.endswith(".safetensors")]
    return sum(files.values()) + sum(_half_bytes(artifacts.open_file(artifact, path)) for path in weights)


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
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            tensors = json.loads(file.read(min(length, LONGEST_HEADER)))
        spans = [tensor["data_offsets"] for tensor in tensors.values() if tensor.get("dtype") in HALF]
        return sum(int(end) - int(begin) for begin, end in spans)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return 0
