"""Networks for OpenVINO's runtime: converted and checked once, and kept by their content in the user's cache.

    <cache>/openvino/<key>/  graph.xml, graph.bin   the network in float32, as `openvino_graph` makes it
                             result.json            what the self-check said: `fault`, or nothing

The key is a hash of all that decides the result: configuration and weights, versions, the processor, the number format. A
fault is kept too, so that the next start falls back at once.
"""

import gc
import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from mafunzo import cgroup
from mafunzo.compute.device.precision import computes_bfloat16, instruction_sets, name
from mafunzo.compute.inference.executor_openvino import OpenVinoExecutor
from mafunzo.compute.inference.executor_torch import TorchExecutor
from mafunzo.compute.inference.openvino_graph import expected_windows, import_openvino, stateful_graph
from mafunzo.compute.inference.self_check import EXACT, ROUNDED, difference
from mafunzo.compute.model.folder import new_folder, read_json, weights_sha256
from mafunzo.compute.model.loading import load_network
from mafunzo.entities.engine import ARCHITECTURES, OPENVINO_EXTRA
from mafunzo.errors import NotSupported
from mafunzo.tracking.atomic_json import write_json

logger = logging.getLogger(__name__)

# A change of what is written or checked needs a new number here, so that older conversions aren't found in the cache.
CONVERSION = 1
GRAPH, RESULT = "graph.xml", "result.json"
KEPT = 8
"""How many conversions stay in the cache, those that were used last."""


@dataclass(frozen=True)
class Converted:
    """A network in OpenVINO's runtime, and how many parameters it has."""

    executor: OpenVinoExecutor
    parameters: int


def load_converted(folder: Path, cache: Path, dtype: torch.dtype, cache_bytes: int | None = None) -> Converted:
    """Load the network of a Hugging Face folder into OpenVINO's runtime; convert and check it the first time.

    cache: the user's cache folder. dtype: float32 or bfloat16, in which it computes. cache_bytes: what the KV cache may take.
    Raises `NotSupported` with the reason where it can't be served so.
    """
    _require_known(folder)
    _require_threads(dtype)
    target = cache / "openvino" / _key(folder, dtype)
    if not target.exists():
        try:
            _convert(folder, dtype, target)
        except (
            OSError,
            RuntimeError,
        ) as error:  # no disk, or no memory: not a fault of the network, so that it isn't kept
            raise NotSupported(
                f"converting it for openvino failed: {type(error).__name__}: {str(error)[:300]}"
            ) from error
        _delete_oldest(target.parent)
    result = read_json(target / RESULT)
    os.utime(target)
    if result["fault"]:
        raise NotSupported(result["fault"])
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    executor = OpenVinoExecutor(target / GRAPH, config, result["vocab_size"], dtype, cache_bytes=cache_bytes)
    return Converted(executor, result["parameters"])


def converted_dtype(folder: Path) -> torch.dtype:
    """Return bfloat16 for weights that are stored in it where the CPU computes in it, else float32."""
    config = read_json(folder / "config.json")
    stored = config.get("dtype") or config.get("torch_dtype")
    is_half = stored == "bfloat16" and computes_bfloat16(instruction_sets())
    return torch.bfloat16 if is_half else torch.float32


def _require_known(folder: Path) -> None:
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type not in ARCHITECTURES:
        raise NotSupported(f"openvino isn't known to compute {model_type} exactly")
    try:
        import_openvino()
    except ImportError as error:
        raise NotSupported(f"openvino isn't installed: {OPENVINO_EXTRA} ({error})") from error


def _require_threads(dtype: torch.dtype) -> None:
    """Refuse what ends the process by SIGFPE: products of bfloat16 by AMX in one thread (OpenVINO 2026.4.1).

    Without AMX the runtime computes there, but reads a prompt in four times as long as torch.
    """
    threads = min(torch.get_num_threads(), cgroup.usable_cpus())
    if dtype == torch.bfloat16 and threads == 1 and "amx_bf16" in instruction_sets():
        raise NotSupported(
            "openvino can't compute in bfloat16 with AMX in one thread: give the worker two cores or more"
        )


def _key(folder: Path, dtype: torch.dtype) -> str:
    parts = [
        str(CONVERSION),
        weights_sha256(folder),
        (folder / "config.json").read_text(encoding="utf-8"),
        *(version(package) for package in ("openvino", "torch", "transformers")),
        " ".join(sorted(instruction_sets())),
        name(dtype),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _convert(folder: Path, dtype: torch.dtype, target: Path) -> None:
    logger.info("Converting %s for OpenVINO, and checking it against torch, once", folder)
    with new_folder(target) as scratch:
        network = load_network(folder, dtype=torch.float32)
        result: dict[str, Any] = {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "vocab_size": network.get_input_embeddings().num_embeddings,
        }
        try:
            graph = stateful_graph(network)
            import_openvino().save_model(graph, scratch / GRAPH, compress_to_fp16=False)
            del graph
            result["fault"] = _fault(scratch / GRAPH, network, dtype)
        except NotSupported as error:
            result["fault"] = str(error)
        if result["fault"]:
            for file in scratch.iterdir():
                file.unlink()
        write_json(scratch / RESULT, result)


def _fault(graph_file: Path, network: Any, dtype: torch.dtype) -> str:
    """Return what the self-check finds, or an empty text."""
    reference = TorchExecutor(network)
    config, vocabulary = network.config, reference.vocab_size
    windows = expected_windows(reference.config)
    for checked, tolerance in ((torch.float32, EXACT), (dtype, ROUNDED)):
        executor = OpenVinoExecutor(graph_file, config, vocabulary, checked)
        if executor.sliding_windows != windows:
            return f"the sliding windows of its layers are {executor.sliding_windows}, expected {windows}"
        if why := difference(executor, reference, max(windows), tolerance):
            return f"the self-check against torch in {name(checked)} failed: {why}"
        if checked is dtype:
            break
        del executor
        gc.collect()
    return ""


def _delete_oldest(folder: Path) -> None:
    """Delete the conversions that were used least lately; a worker that has one open keeps it until it ends."""
    targets = sorted(
        (path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.stat().st_mtime
    )
    for path in targets[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
