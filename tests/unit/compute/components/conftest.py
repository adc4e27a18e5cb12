"""Folders as users and the steps before would leave them, made with real tiny models."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter


@pytest.fixture(scope="session")
def card_folder() -> Callable[..., Path]:
    """Return a function that writes a catalogue model by reference."""
    return _card_folder


@pytest.fixture(scope="session")
def adapter_of() -> Callable[[Path, Path], Path]:
    """Return a function that writes an adapter with random weights for the network in a folder, as finetune does."""
    return _adapter_of


@pytest.fixture(scope="session")
def facts() -> Callable[[Path], dict[str, Any]]:
    """Return a function that reads what a folder says of itself."""
    return _facts


def _card_folder(tmp_path: Path, name: str, **changes: object) -> Path:
    body = yaml.safe_load((files("mafunzo.catalog") / "models" / f"{name}.yml").read_text(encoding="utf-8"))
    folder = tmp_path / f"card-{name}"
    folder.mkdir()
    (folder / "card.yml").write_text(yaml.safe_dump(body | changes))
    return folder


def _adapter_of(base: Path, folder: Path) -> Path:
    """Write an adapter with random weights for the network in `base`, as the finetune step does."""
    network = load_network(base)
    add_adapter(network, AdapterConfig(r=4, alpha=8))
    torch.manual_seed(3)
    for _, layer in adapters(network):
        torch.nn.init.normal_(layer.lora_B, std=0.05)
    save_adapter(network, AdapterConfig(r=4, alpha=8), folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, folder)
    return folder


def _facts(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "mafunzo_model.json").read_text()))
