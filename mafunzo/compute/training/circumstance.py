"""The circumstances of a run: what decides its bits beside its rows, its arguments and the random numbers.

A checkpoint's manifest names them, so that who goes on from it knows whether the result equals that of an uninterrupted run bit
for bit, or within the rounding of sums that are taken in another order.
"""

import logging
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch

from mafunzo.compute.training.proof import code_sha256
from mafunzo.compute.training.run import Run
from mafunzo.compute.training.tightening import Tightness

logger = logging.getLogger(__name__)


def circumstances(run: Run, tightness: Tightness) -> dict[str, Any]:
    """Return the circumstances of now, as a manifest holds them. tightness: how the memory plan has passes made."""
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "configuration": run.arguments.to_values(),
        "code": {
            "mafunzo": metadata.version("mafunzo"),
            "sha256": code_sha256(),
            "torch": torch.__version__,
            "transformers": metadata.version("transformers"),
        },
        "machine": {"device": _device(run.device), "instruction_set": torch.backends.cpu.get_cpu_capability()},
        "memory_plan": asdict(tightness),
        "threads": torch.get_num_threads(),
        "strategy": run.stepper.strategy,
        "processes": torch.distributed.get_world_size() if is_distributed else 1,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between the circumstances of a checkpoint and those in which it is gone on from, the plan apart."""
    if "code" not in before:
        return ["its checkpoint doesn't say in which circumstances it was written"]
    places = [("code", name) for name in now["code"]] + [("machine", name) for name in now["machine"]]
    pairs = [(name, before[kind].get(name), now[kind][name]) for kind, name in places]
    pairs += [(name, before.get(name), now[name]) for name in ("threads", "processes")]
    pairs += [("strategy", before.get("strategy", "ddp"), now["strategy"])]
    return [
        f"{_WORDS.get(name, name)} was {_short(old)} and is {_short(new)}" for name, old, new in pairs if old != new
    ]


_WORDS = {
    "sha256": "the training code",
    "instruction_set": "the instruction set",
    "device": "the device",
    "threads": "the number of threads",
    "processes": "the number of processes",
    "strategy": "the data parallel strategy",
}


def use_threads(threads: int | None) -> None:
    """Compute with as many threads as before, where this process may use so many: sums are then taken in the same order."""
    if threads and threads < torch.get_num_threads():
        logger.info("Computes with %d threads, as before, of %d", threads, torch.get_num_threads())
        torch.set_num_threads(threads)


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
