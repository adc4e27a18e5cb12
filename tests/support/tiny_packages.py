"""Packages of tiny tuned models, as the packaging step writes them, each with the proof that its worker is held against."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mafunzo.compute.components.command import Arguments
from mafunzo.compute.components.package_model import package_model
from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.evaluation.serving_reference import serving_reference
from mafunzo.compute.model.folder import TOKENIZER_FILES, copy_files, weights_sha256, write_facts
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter
from mafunzo.tracking.metrics import MetricLog

ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": f"What is your name, and where do you live? ({number})"},
            {"role": "assistant", "content": "My name is Sam. I live in a small town near the sea."},
            {"role": "user", "content": "Do you like it there?"},
            {"role": "assistant", "content": "Yes, it is quiet, and the people are friendly."},
        ]
    }
    for number in range(3)
]


@dataclass(frozen=True)
class Packages:
    """Good packages of one recipe: merged, and as an adapter beside its base."""

    base: Path
    tuned: Path
    merged: Path
    adapter: Path


def make_packages(root: Path, recipe: str) -> Packages:
    base, tuned = make_base(root / "base", recipe), root / "tuned"
    tune(base, tuned)
    merged, adapter = (package(root, base, tuned, is_merged) for is_merged in (True, False))
    return Packages(base, tuned, merged, adapter)


def make_base(folder: Path, recipe: str, seed: int = 0) -> Path:
    make(recipe, seed, folder)
    facts = {"name": recipe, "version": "1", "source": f"made:{recipe}", "licence": "apache-2.0", "base": None}
    write_facts(folder, facts | {"weights_sha256": weights_sha256(folder)})
    return folder


def tune(base: Path, tuned: Path, seed: int = 1, std: float = 0.1) -> None:
    """Write an adapter whose factors are random."""
    network = load_network(base)
    torch.manual_seed(seed)
    add_adapter(network, config := AdapterConfig(r=4, alpha=8))
    for _, layer in adapters(network):
        torch.nn.init.normal_(layer.lora_B, std=std)
    save_adapter(network, config, tuned)
    copy_files(base, TOKENIZER_FILES, tuned)


def package(root: Path, base: Path, tuned: Path, is_merged: bool) -> Path:
    """Write what the packaging step writes."""
    evaluation = root / f"evaluation-{is_merged}"
    evaluation.mkdir(parents=True)
    reference = serving_reference(base, tuned, is_merged, ROWS, 3, 400, torch.float32)
    (evaluation / "serving_reference.json").write_text(json.dumps(reference))
    out = root / f"package-{is_merged}"
    values = {"merge_lora_weights": is_merged, "trust_remote_code": False, "name": "tiny"}
    paths = {"model": base, "tuned": tuned, "prepared": None, "evaluation": evaluation}
    package_model(Arguments(values, paths, {"mlflow_model_folder": out}, MetricLog(None)))
    return out
