"""Model loading for serving, from a folder to an engine: where weights, adapter and tokenizer are, and in which dtype."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.device import precision
from mafunzo.compute.inference.conversion import Converted, converted_dtype, load_converted
from mafunzo.compute.inference.engine import Engine
from mafunzo.compute.inference.executor import Executor
from mafunzo.compute.inference.executor_torch import TorchExecutor, serving_dtype
from mafunzo.compute.inference.grammar import GrammarCompiler
from mafunzo.compute.inference.stop import stop_token_ids
from mafunzo.compute.inference.token_engine import TokenEngine
from mafunzo.compute.model.folder import TOKENIZER_FILES, read_facts
from mafunzo.compute.model.loading import load_network
from mafunzo.entities import engine as engines
from mafunzo.entities.engine import EngineChoice
from mafunzo.errors import InvalidFile, InvalidParameter, NotSupported

logger = logging.getLogger(__name__)

TORCH = EngineChoice(engines.Engine.TORCH)
GENERATION_FILE = "generation_config.json"


@dataclass(frozen=True)
class ModelFolders:
    """Hugging Face folders. adapter: peft's, to be put on `network` without merging."""

    network: Path
    tokenizer: Path
    adapter: Path | None = None


@dataclass(frozen=True)
class LoadedModel:
    """What a worker serves under a name: an engine, its tokenizer, grammars for it, and facts of the network.

    folder: where tokenizer and generation configuration were read from; base: what an adapter's facts are compared with.
    stop_token_ids: what ends its replies. choice: what computes it. adapter: the engine's name for what computes its replies,
    None for the model itself.
    """

    engine: TokenEngine
    tokenizer: Any
    grammars: GrammarCompiler
    dtype: str
    parameters: int
    folder: Path
    base: Path
    stop_token_ids: frozenset[int]
    choice: EngineChoice = TORCH
    adapter: str | None = None


def find_model(folder: Path, base: Path | None = None) -> ModelFolders:
    """Find the parts of a model in an MLflow folder (`data/model`, or `data/adapter` on `base`), or a Hugging Face folder.

    Raises `InvalidParameter` for an adapter without its base, `InvalidFile` for a folder that is neither.
    """
    for candidate in _places(folder):
        if _is_adapter(candidate):
            if base is None:
                raise InvalidParameter(f"{candidate} is an adapter: name the model that it was trained on with --base.")
            _check_base(folder, base)
            return ModelFolders(find_model(base).network, candidate, candidate)
        if (candidate / "config.json").exists():
            return ModelFolders(candidate, candidate)
    raise InvalidFile(
        f"{folder} holds no model: expected config.json (Hugging Face), or data/model or data/adapter (MLflow)."
    )


def load_model(
    folder: Path,
    base: Path | None = None,
    max_batch: int = 16,
    device: torch.device | str | None = None,
    cache_mb: int | None = None,
    openvino_cache: Path | None = None,
) -> LoadedModel:
    """Load a model on `device` (default: CUDA, else CPU), in the dtype of its weights where the device computes it.

    cache_mb: what the KV cache may take; None: a share of what is free. openvino_cache: the user's cache folder, to have
    OpenVINO's runtime compute it where that can, converted there; None: torch does.
    """
    folders = find_model(folder, base)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = load_tokenizer(folders.tokenizer)
    cache_bytes = None if cache_mb is None else cache_mb * 2**20
    choice, executor, dtype, parameters = _load_executor(folders, device, cache_bytes, openvino_cache)
    stops = stop_token_ids(tokenizer, generation_config(folders))
    tokens = tokenizer.convert_ids_to_tokens(list(stops))
    logger.info("Loaded %s: %s, %s, stops at %s", folder, choice, dtype, tokens)
    engine = Engine(executor, tokenizer, stops, max_batch)
    grammars = GrammarCompiler(tokenizer, executor.vocab_size, stops)
    return LoadedModel(
        engine,
        tokenizer,
        grammars,
        precision.name(dtype),
        parameters,
        folders.tokenizer,
        base or folder,
        engine.stop_token_ids,
        choice,
    )


def _load_executor(
    folders: ModelFolders, device: torch.device, cache_bytes: int | None, openvino_cache: Path | None
) -> tuple[EngineChoice, Executor, torch.dtype, int]:
    """Return what computes a model, its dtype, and how many parameters it has."""
    choice = TORCH
    if openvino_cache is not None:
        try:
            converted = _converted(folders, device, cache_bytes, openvino_cache)
        except NotSupported as error:
            logger.warning("Serving with torch, not openvino: %s", error)
            choice = EngineChoice(engines.Engine.TORCH, str(error))
        else:
            openvino = EngineChoice(engines.Engine.OPENVINO)
            return openvino, converted.executor, converted.executor.dtype, converted.parameters
    network = load_network(
        folders.network, folders.adapter, device=device, dtype=serving_dtype(folders.network, device)
    )
    executor = TorchExecutor(network, pack_weights=True, cache_bytes=cache_bytes)
    return choice, executor, executor.dtype, executor.parameters


def _converted(folders: ModelFolders, device: torch.device, cache_bytes: int | None, cache: Path) -> Converted:
    if folders.adapter is not None:
        raise NotSupported("openvino serves no adapter on its base")
    if device.type != "cpu":
        raise NotSupported("openvino computes on the CPU, and there is a GPU")
    return load_converted(folders.network, cache, converted_dtype(folders.network), cache_bytes)


def load_adapter(model: LoadedModel, folder: Path, name: str, others: Iterable[LoadedModel] = ()) -> LoadedModel:
    """Load an adapter onto a model that is being served, as the engine's `name`; return what answers with it.

    It has the chat template, the tokenizer and the stop tokens of its own folder; where their files are those of the model, or
    of one of the `others` on it, they are shared. Raises `InvalidFile` for a folder without an adapter, `InvalidParameter` for
    one of another base, and what `Engine.load_adapter` does.
    """
    adapter = next(filter(_is_adapter, _places(folder)), None)
    if adapter is None:
        raise InvalidFile(f"{folder} holds no adapter: expected adapter_config.json there or in data/adapter (MLflow).")
    _check_base(folder, model.base)
    equal = (one for one in (model, *others) if not _has_tokenizer(adapter) or _has_texts_of(one.folder, adapter))
    tuned = next(equal, None) or _with_texts_of(model, adapter)
    model.engine.load_adapter(name, adapter)
    logger.info("Loaded the adapter %s from %s", name, folder)
    return replace(tuned, adapter=name, folder=adapter if _has_tokenizer(adapter) else model.folder)


def _with_texts_of(model: LoadedModel, adapter: Path) -> LoadedModel:
    """Return the model with the tokenizer, the chat template and the stop tokens of an adapter's folder."""
    tokenizer, own = load_tokenizer(adapter), None
    if (adapter / GENERATION_FILE).exists():
        own = GenerationConfig.from_pretrained(adapter, local_files_only=True)
    stops = frozenset(stop_token_ids(tokenizer, own)) | (model.stop_token_ids if own is None else frozenset())
    grammars = GrammarCompiler(tokenizer, model.engine.vocab_size, stops)
    return replace(model, tokenizer=tokenizer, grammars=grammars, stop_token_ids=stops)


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").exists()


def _places(folder: Path) -> tuple[Path, ...]:
    root = folder / "data" if (folder / "data").is_dir() else folder
    return root / "model", root / "adapter", folder


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists() and not (folder / "config.json").exists()


def _has_texts_of(folder: Path, adapter: Path) -> bool:
    """Return whether a folder has an adapter's tokenizer, chat template and, where it says any, generation configuration."""
    texts, own = _text_files(folder), _text_files(adapter)
    if GENERATION_FILE not in own:
        texts.pop(GENERATION_FILE, None)
    return texts == own


def _text_files(folder: Path) -> dict[str, str]:
    """Return the hashes of the files that say how conversations become tokens and where replies end."""
    files = {file for pattern in (*TOKENIZER_FILES, GENERATION_FILE) for file in folder.glob(pattern) if file.is_file()}
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


def _check_base(adapter: Path, base: Path) -> None:
    """Refuse a base whose recorded weights aren't those that the adapter was trained on; unrecorded ones pass."""
    expected = (read_facts(adapter).get("base") or {}).get("weights_sha256")
    actual = read_facts(base).get("weights_sha256")
    if expected and actual and expected != actual:
        raise InvalidParameter(
            f"--base {base} has weights with the hash {actual[:12]}..., but the adapter was trained on "
            f"{expected[:12]}..., those of {read_facts(adapter)['base'].get('name', 'another model')}."
        )


def generation_config(folders: ModelFolders) -> Any:
    """Return the `generation_config.json` beside the tokenizer (a tuned model may have one), else the network's."""
    for folder in (folders.tokenizer, folders.network):
        if (folder / GENERATION_FILE).exists():
            return GenerationConfig.from_pretrained(folder, local_files_only=True)
    config = AutoConfig.from_pretrained(str(folders.network), local_files_only=True)
    return GenerationConfig.from_model_config(config)
