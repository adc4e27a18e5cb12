"""A GGUF file to a plain Hugging Face folder in bf16."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from mafunzo.compute.model.loading import save_network
from mafunzo.tracking.atomic_json import write_json


def convert(gguf: Path, folder: Path) -> None:
    """Write the weights of `gguf`, dequantized to bf16, its tokenizer and chat template into `folder`."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    network = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.model_max_length = network.config.max_position_embeddings
    save_network(network, folder)
    tokenizer.save_pretrained(folder)
    _forget(folder / "config.json", "_name_or_path", "_model_name_or_path")
    _forget(folder / "tokenizer_config.json", "is_local", "local_files_only")


def _forget(path: Path, *keys: str) -> None:
    """Drop keys that name the paths of the conversion."""
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    remainder = {key: value for key, value in body.items() if key not in keys}
    write_json(path, remainder, indent=2, ensure_ascii=False)
