"""Model loading where vLLM computes: its server gets the weights, this process the tokenizer, the grammars and the facts."""

import json
import logging
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.inference.executor_torch import context_length
from mafunzo.compute.inference.grammar import GrammarCompiler
from mafunzo.compute.inference.loading import LoadedModel, ModelFolders, find_model, generation_config
from mafunzo.compute.inference.stop import stop_token_ids
from mafunzo.compute.inference.vllm_engine import VllmEngine
from mafunzo.compute.inference.vllm_server import VllmModel, VllmServer
from mafunzo.compute.model.lora import read_adapter_config
from mafunzo.entities.engine import Engine, EngineChoice, vllm_adapter_fault, vllm_lora_rank
from mafunzo.errors import NotSupported, WorkerFailed

logger = logging.getLogger(__name__)


def load_by_vllm(server: VllmServer, folder: Path, base: Path | None = None, max_batch: int = 16) -> LoadedModel:
    """Have vLLM load a model, in the dtype of its weights; return when it answers.

    Raises `NotSupported` for what vLLM computes otherwise, `WorkerFailed` where it doesn't start.
    """
    folders = find_model(folder, base)
    adapter = None if folders.adapter is None else read_adapter_config(folders.adapter)
    fault = "" if adapter is None else vllm_adapter_fault(adapter)
    if fault:
        raise NotSupported(f"{folder}: {fault}. Deploy it with the engine torch.")
    config = AutoConfig.from_pretrained(str(folders.network), local_files_only=True).get_text_config()
    tokenizer = load_tokenizer(folders.tokenizer)
    stops = stop_token_ids(tokenizer, generation_config(folders))
    dtype, length = stored_dtype(folders.network), context_length(config)
    lora_rank = _start(server, folders, dtype, length, max_batch, vllm_lora_rank(adapter))
    engine = VllmEngine(
        server.socket, server.key, tokenizer, stops, length, int(config.vocab_size), max_batch, lora_rank
    )
    if folders.adapter is not None:
        engine.load_own_adapter(folders.adapter)
    logger.info("Loaded %s: vllm, %s, stops at %s", folder, dtype, tokenizer.convert_ids_to_tokens(list(stops)))
    return LoadedModel(
        engine,
        tokenizer,
        GrammarCompiler(tokenizer, engine.vocab_size, stops),
        dtype,
        parameters_in(folders.network),
        folders.tokenizer,
        base or folder,
        engine.stop_token_ids,
        EngineChoice(Engine.VLLM),
    )


def _start(server: VllmServer, folders: ModelFolders, dtype: str, length: int, max_batch: int, lora_rank: int) -> int:
    """Start the server; return the greatest rank of adapters that it takes. 0: it computes the model without them."""
    model = VllmModel(folders.network, folders.tokenizer, dtype, length, max_batch, lora_rank)
    try:
        server.start(model)
    except WorkerFailed:
        if folders.adapter is not None or server.is_ending:
            raise
        logger.warning(
            "vLLM didn't start. It is tried once more without adapters, which some architectures don't have there"
        )
        server.start(VllmModel(folders.network, folders.tokenizer, dtype, length, max_batch, lora_rank=0))
        return 0
    return lora_rank


def stored_dtype(network: Path) -> str:
    """Return the dtype of a network's weights, which vLLM is told: by itself it would compute float32 ones in float16."""
    config: dict[str, Any] = json.loads((network / "config.json").read_text(encoding="utf-8"))
    inner = config.get("text_config") or {}
    name = config.get("dtype") or config.get("torch_dtype") or inner.get("dtype") or inner.get("torch_dtype")
    return str(name or "float32")


def parameters_in(network: Path) -> int:
    """Return how many numbers a network's files hold."""
    count = 0
    for file in sorted(network.glob("*.safetensors")):
        with safe_open(file, "numpy") as tensors:
            count += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count
