"""Proofs: how a network may be run, as it was proven on these very weights before (network.py), so that no run proves it again.

A proof takes eight forward passes, a second of the processor for 135M parameters. What it shows follows from the weights, the
architecture, and the code that computes; so it is remembered under the hash of all these, and of nothing else. Weights whose
hash nobody knows, and architectures that are code in the model's folder, are proven each time.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedModel

from mafunzo.compute.model.folder import read_facts
from mafunzo.errors import MafunzoError
from mafunzo.tracking.atomic_json import write_json

logger = logging.getLogger(__name__)

CODE = ("chat", "device", "model", "training")
"""The packages of the compute plane whose code a training step runs."""


@dataclass(frozen=True)
class Proof:
    """reason: why rows aren't packed, empty where they are. has_head: whether the head is computed in chunks."""

    reason: str
    has_head: bool


@dataclass(frozen=True)
class Place:
    """The file of a network's proof."""

    file: Path

    @classmethod
    def of(cls, folder: Path | None, base: Path, network: PreTrainedModel) -> Self | None:
        """Return the place in `folder`, or None where nothing is to be remembered."""
        weights = read_facts(base).get("weights_sha256")
        if folder is None or not weights or not type(network).__module__.startswith("transformers."):
            return None
        facts = {
            "weights": weights,
            "configuration": network.config.to_json_string(use_diff=False),
            "dtype": str(network.dtype),
            "device": network.device.type,
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
            "code": code_sha256(),
            "libraries": [torch.__version__, metadata.version("transformers")],
        }
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return cls(folder / f"{name}.json")

    def read(self) -> Proof | None:
        """Return the proof; None where there is none that can be read."""
        try:
            body = json.loads(self.file.read_text(encoding="utf-8"))
            return Proof(str(body["reason"]), bool(body["has_head"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, proof: Proof) -> None:
        """Remember a proof; a folder that can't be written into remembers none."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, asdict(proof))
        except (OSError, MafunzoError) as error:
            logger.info("How the network may be run isn't remembered: %s", error)


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Return the hash of the code that training runs."""
    root = Path(__file__).parents[1]
    files = sorted(path for package in CODE for path in (root / package).rglob("*.py"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
