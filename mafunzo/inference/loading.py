"""From a folder to an engine that is ready: where the weights, the adapter and the tokenizer are, and in which precision."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from mafunzo.chat.network import load_network
from mafunzo.chat.tokenizer import load_tokenizer
from mafunzo.errors import InvalidFile, InvalidParameter
from mafunzo.inference.engine import Engine
from mafunzo.inference.executor_torch import TorchExecutor, serving_dtype
from mafunzo.inference.stop import stop_token_ids

logger = logging.getLogger(__name__)


FACTS_FILE = "mafunzo_model.json"


@dataclass(frozen=True)
class ModelFolders:
    """Hugging Face folders. adapter: peft's, to be put on `network` without merging."""

    network: Path
    tokenizer: Path
    adapter: Path | None = None


@dataclass(frozen=True)
class LoadedModel:
    """What a worker answers with."""

    engine: Engine
    tokenizer: Any
    dtype: str
    parameters: int


def find_model(folder: Path, base: Path | None = None) -> ModelFolders:
    """Find the parts of a model in an MLflow folder (`data/model`, or `data/adapter` on `base`), or a Hugging Face folder.

    Raises `InvalidParameter` for an adapter without its base, `InvalidFile` for a folder that is neither.
    """
    root = folder / "data" if (folder / "data").is_dir() else folder
    for found in (root / "model", root / "adapter", folder):
        if (found / "adapter_config.json").exists() and not (found / "config.json").exists():
            if base is None:
                raise InvalidParameter(f"{found} is an adapter: name the model that it was trained on with --base.")
            _check_base(folder, base)
            return ModelFolders(find_model(base).network, found, found)
        if (found / "config.json").exists():
            return ModelFolders(found, found)
    raise InvalidFile(
        f"{folder} holds no model: expected config.json (Hugging Face), or data/model or data/adapter (MLflow)."
    )


def load_model(
    folder: Path, base: Path | None = None, max_batch: int = 16, device: torch.device | str | None = None
) -> LoadedModel:
    """Load a model on `device`, by default the best that there is, in the precision that its weights are stored in."""
    folders = find_model(folder, base)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(folders.tokenizer)
    network = load_network(
        folders.network, folders.adapter, device=device, dtype=serving_dtype(folders.network, device)
    )
    executor = TorchExecutor(network, pack_weights=True)
    stops = stop_token_ids(tokenizer, _generation_config(folders, network.generation_config))
    logger.info("Loaded %s: %s, stops at %s", folder, executor.dtype, tokenizer.convert_ids_to_tokens(list(stops)))
    engine = Engine(executor, tokenizer, stops, max_batch)
    return LoadedModel(engine, tokenizer, str(executor.dtype).removeprefix("torch."), executor.parameters)


def _check_base(adapter: Path, base: Path) -> None:
    """Refuse a base whose recorded weights aren't those that the adapter was trained on; unrecorded ones pass."""
    wanted = (_facts(adapter).get("base") or {}).get("weights_sha256")
    given = _facts(base).get("weights_sha256")
    if wanted and given and wanted != given:
        raise InvalidParameter(
            f"--base {base} has weights with the hash {given[:12]}..., but the adapter was trained on {wanted[:12]}..., "
            f"those of {_facts(adapter)['base'].get('name', 'another model')}."
        )


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS_FILE
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return facts


def _generation_config(folders: ModelFolders, of_network: Any) -> Any:
    """Return the generation settings beside the tokenizer, which a tuned model may have of its own, else the network's."""
    if not (folders.tokenizer / "generation_config.json").exists():
        return of_network
    return GenerationConfig.from_pretrained(folders.tokenizer, local_files_only=True)
