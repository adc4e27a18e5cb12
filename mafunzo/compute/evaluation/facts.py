"""Provenance of an evaluation (model, data, device): the part of a report that makes it reproducible."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mafunzo.compute.chat.examples import IGNORED
from mafunzo.compute.evaluation.tasks import EncodedRow


def model_facts(folder: Path) -> dict[str, Any]:
    """Return what import_model recorded of a model, if anything."""
    path = folder / "mafunzo_model.json"
    facts: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {key: facts[key] for key in ("name", "version", "source", "licence", "weights_sha256") if key in facts}


def data_facts(folder: Path, rows: Sequence[EncodedRow]) -> dict[str, Any]:
    """Return counts, files and hash of the held-out rows."""
    return {
        "rows": len(rows),
        "tokens": sum(len(row.input_ids) for row in rows),
        "assistant_tokens": sum(label != IGNORED for row in rows for label in row.labels[1:]),
        "files": sorted({row.file for row in rows}),
        "test_sha256": hashlib.sha256((folder / "test.parquet").read_bytes()).hexdigest(),
    }


def device_name(device: str) -> str:
    """Return the name of the device that the networks ran on."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"CPU {platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
