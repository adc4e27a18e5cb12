"""Engines: what computes a deployment's tokens, and which one is chosen where the user doesn't say."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mafunzo.errors import InvalidParameter, did_you_mean

OPENVINO_EXTRA = "pip install 'mafunzo[openvino]'"
VLLM_EXTRA = "pip install 'mafunzo[vllm]'"
GPU_SHARE = 0.9
"""Of a GPU's memory, what vLLM takes at its start for weights and KV cache; the GPU is leased to it alone."""
LORA_RANKS = (64, 128, 256, 320, 512)
"""The greatest ranks that vLLM makes room for; the first where nothing asks for more, as adapters may come later."""
ARCHITECTURES = frozenset(
    {"gemma", "gemma3_text", "gpt2", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"}
)
"""The `model_type`s that OpenVINO's runtime computes as torch does: the tests compare each, beyond its sliding window."""
LEAST_WEIGHTS_MB = 100
"""In float32. Smaller networks answer at once in torch, and converting them would take longer than it saves."""
CONVERSION_FACTOR = 3
"""What a conversion takes of memory, in sizes of the network in float32: torch's, the runtime's, and what it lays out anew."""
BESIDE_MB = 1500
"""What else a worker takes while it converts: its process, and a KV cache."""


class Engine(StrEnum):
    """torch: every architecture, on any device, with adapters. openvino: faster on x86-64. vllm: faster on a GPU.
    auto: vllm or openvino where they can."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"
    VLLM = "vllm"


@dataclass(frozen=True)
class EngineFacts:
    """What decides it. weights_mb: of the network in float32. memory_mb: of this machine.
    instances: how many workers there may be. is_installed: OpenVINO's runtime. architectures: of the network, as its
    configuration names them. has_vllm: whether it is installed; vllm_architectures: what it computes, None where that can't be
    read. adapter_fault: what vLLM would compute otherwise of an adapter that is the model.
    """

    model_type: str = ""
    weights_mb: int = 0
    memory_mb: int = 0
    instances: int = 1
    has_adapter: bool = False
    has_gpu: bool = False
    processor: str = "x86_64"
    is_installed: bool = False
    architectures: tuple[str, ...] = ()
    has_vllm: bool = False
    vllm_architectures: frozenset[str] | None = None
    adapter_fault: str = ""


@dataclass(frozen=True)
class EngineChoice:
    """The engine, and why it isn't the other one, or an empty text."""

    engine: Engine
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.engine} ({self.reason})" if self.reason else str(self.engine)


def choose(asked: Engine, facts: EngineFacts) -> EngineChoice:
    """Return the engine that serves: vLLM on a GPU, OpenVINO's runtime on a CPU, unless something speaks against it; torch
    then, and where the user says so."""
    if asked is Engine.TORCH:
        return EngineChoice(Engine.TORCH)
    if asked is Engine.VLLM or (asked is Engine.AUTO and facts.has_gpu):
        reason = "; ".join(vllm_faults(facts))
        return EngineChoice(Engine.TORCH, reason) if reason else EngineChoice(Engine.VLLM)
    reason = _obstacle(facts)
    if not reason and asked is Engine.AUTO and facts.weights_mb < LEAST_WEIGHTS_MB:
        reason = f"a network of {facts.weights_mb} MB gains nothing from openvino"
    return EngineChoice(Engine.TORCH, reason) if reason else EngineChoice(Engine.OPENVINO)


def vllm_faults(facts: EngineFacts) -> list[str]:
    """Return all that speaks against vLLM."""
    faults = [] if facts.has_vllm else [f"vllm isn't installed: {VLLM_EXTRA}"]
    if not facts.has_gpu:
        faults.append("vllm computes on a GPU, and there is none")
    known = facts.vllm_architectures
    if facts.has_vllm and known is not None and facts.architectures and not known & set(facts.architectures):
        faults.append(f"the vllm that is installed doesn't compute {', '.join(facts.architectures)}")
    return [*faults, facts.adapter_fault] if facts.adapter_fault else faults


def vllm_adapter_fault(config: Mapping[str, Any], max_rank: int = LORA_RANKS[-1]) -> str:
    """Return what vLLM would compute otherwise, or not at all, of an adapter with this `adapter_config.json`, or nothing."""
    own = [name for name in ("rank_pattern", "alpha_pattern") if config.get(name)]
    if own:
        return f"vllm has one rank and one scale for all layers of an adapter, and this one has {own[0]}"
    kinds = {"use_dora": "DoRA", "modules_to_save": "modules_to_save"}
    uses = [word for name, word in kinds.items() if config.get(name)]
    uses += ["bias"] if config.get("bias") not in (None, "none") else []
    if uses:
        return f"vllm serves no adapter with {' and '.join(uses)}"
    rank = _rank(config)
    return f"vllm takes adapters up to rank {max_rank} here, and this one has {rank}" if rank > max_rank else ""


def vllm_lora_rank(config: Mapping[str, Any] | None) -> int:
    """Return the rank that vLLM makes room for; config: that of an adapter which is the model, whose rank fits."""
    rank = 0 if config is None else _rank(config)
    return next(limit for limit in LORA_RANKS if rank <= limit)


def _rank(config: Mapping[str, Any]) -> int:
    rank = config.get("r", 8)  # as peft has it
    return rank if isinstance(rank, int) else 0


def _obstacle(facts: EngineFacts) -> str:
    """Return why OpenVINO's runtime can't serve, or an empty text."""
    if facts.has_gpu:
        return "openvino computes on the CPU, and there is a GPU"
    if not facts.is_installed:
        return f"openvino isn't installed: {OPENVINO_EXTRA}"
    if facts.processor.lower() not in ("x86_64", "amd64"):
        return f"openvino serves on x86-64, and this is {facts.processor}"
    if facts.has_adapter:
        return "openvino serves no adapter on its base"
    if facts.model_type not in ARCHITECTURES:
        return f"openvino isn't known to compute {facts.model_type or 'this architecture'} exactly"
    needed_mb = facts.instances * (CONVERSION_FACTOR * facts.weights_mb + BESIDE_MB)
    if needed_mb > facts.memory_mb:
        return f"converting it for openvino may take {needed_mb:,} MB, and this machine has {facts.memory_mb:,}"
    return ""


def engine_named(name: str) -> Engine:
    """Return the engine of a name; raises `InvalidParameter`."""
    try:
        return Engine(name)
    except ValueError:
        names = ", ".join(Engine)
        raise InvalidParameter(f"engine is '{name}', expected one of {names}.{did_you_mean(name, Engine)}") from None
