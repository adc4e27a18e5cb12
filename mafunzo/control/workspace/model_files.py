"""What a model's files tell without its weights being read: its layers, by the headers of its safetensors files.

A header (8 bytes of length, then JSON) names each tensor with its shape and place in the file, so that layers that LoRA can't
adapt, files that were cut off and missing shards are found before a job starts.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mafunzo.entities.parameters.target_modules import TargetModules

HEADS = ("lm_head", "embed_out")
"""What architectures call the layer that makes logits."""
_EMBEDDINGS = ("embed_tokens", "embed_in", "embed_positions", "word_embeddings", "wte", "wpe", "tokens_embed")
_WITHOUT_LINEAR_LAYERS = ("gpt2", "openai-gpt")
"""Architectures whose matrices are transformers' Conv1D, on which no adapter goes."""
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_LONGEST_HEADER = 100 << 20


@dataclass(frozen=True)
class Layers:
    """The linear layers of a network by their whole names. architecture: transformers' `model_type`.

    The head is among them only where its weight isn't the embedding's too. has_experts: whether it is a mixture (MoE).
    """

    architecture: str
    names: tuple[str, ...]
    has_experts: bool = False

    def notes(self, model: str, apply_lora: bool, targets: TargetModules) -> Iterator[str]:
        """Yield what is to be known of the adapter, for the same values."""
        if apply_lora and self.has_experts and not targets.chosen:
            yield (
                f"The experts of {model} get no adapter where they share one tensor, as transformers loads them: LoRA adapts "
                "its linear layers. The finetune step says which weights stay as they are."
            )

    def faults(self, model: str, apply_lora: bool, targets: TargetModules) -> Iterator[str]:
        """Yield why no adapter can be put on the network, for the values of `apply_lora` and those that name target modules."""
        if not apply_lora:
            return
        if self.architecture in _WITHOUT_LINEAR_LAYERS:
            yield (
                f"apply_lora is 'true', but {model} ({self.architecture}) has no linear layers that LoRA can adapt. Set "
                "apply_lora false."
            )
            return
        head = next((name for name in self.names if name.rsplit(".", 1)[-1] in HEADS), "")
        linears = self.names if head else (*self.names, HEADS[0])
        yield from targets.faults(linears, head or HEADS[0], is_head_tied=not head, model=model)


def layers_of(config: Path, weights: Sequence[Path]) -> Layers | None:
    """Return the layers of a network by its config.json and its safetensors files; None where these don't tell them."""
    body = _json_object(config)
    shapes = {name: shape for file in weights for name, shape in (_shapes(file) or {}).items()}
    if not body or not shapes or body.get("quantization_config"):
        return None
    matrices = [name.removesuffix(".weight") for name, n in shapes.items() if name.endswith(".weight") and n == 2]
    left_out = {*_EMBEDDINGS, *(HEADS if body.get("tie_word_embeddings") is True else ())}
    names = tuple(name for name in matrices if name.rsplit(".", 1)[-1] not in left_out)
    return Layers(str(body.get("model_type", "")), names, any(".experts." in name for name in shapes))


def folder_faults(folder: Path) -> list[str]:
    """Return what is wrong with the files of a Hugging Face folder, an adapter's aside."""
    if not (folder / "config.json").exists():
        return []
    if _json_object(folder / "config.json") is None:
        return [f"{folder / 'config.json'} isn't a JSON object that can be read."]
    weights = sorted(folder.glob("*.safetensors"))
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if not weights and pickles:
        return [
            f"{folder} has its weights in {', '.join(pickles[:3])}, not in safetensors. Loading such a file can run any code "
            "that its author put in. Get the model's safetensors version, or convert it where you trust it."
        ]
    if not weights:
        return [f"{folder} has no *.safetensors weights."]
    index = _json_object(folder / "model.safetensors.index.json") or {}
    shards = sorted(set(index.get("weight_map", {}).values()))
    return [
        *(f"{folder / name} is missing. Fetch the model again." for name in shards if not (folder / name).exists()),
        *(f"{file} is cut off or damaged. Fetch the model again." for file in weights if _shapes(file) is None),
    ]


def template_fault(folder: Path) -> str:
    """Return why conversations can't be rendered with a Hugging Face folder's own tokenizer; an adapter's has its base's."""
    if not (folder / "config.json").exists():
        return ""
    if not any((folder / name).exists() for name in _TOKENIZERS):
        return f"{folder} has no tokenizer ({', '.join(_TOKENIZERS)})."
    is_file = any(folder.glob("chat_template*")) or any(folder.glob("additional_chat_templates/*.jinja"))
    if is_file or (_json_object(folder / "tokenizer_config.json") or {}).get("chat_template"):
        return ""
    return (
        f"{folder} has no chat template: it is a base model, not a chat model. Choose its -Instruct version, put a "
        "chat_template.jinja into the folder, or name a finetune_config_path that has one."
    )


def _shapes(file: Path) -> Mapping[str, int] | None:
    """Return the number of dimensions of each tensor by the file's header; None for a file that isn't whole."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length <= _LONGEST_HEADER else {}
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        is_whole = length <= _LONGEST_HEADER and file.stat().st_size >= 8 + length + end
        return {name: len(entry["shape"]) for name, entry in tensors.items()} if is_whole else None
    except (OSError, ValueError, struct.error, AttributeError, KeyError, TypeError, IndexError):
        return None


def _json_object(file: Path) -> dict[str, Any] | None:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None
