"""Engines: what computes a deployment's tokens, and which one is chosen where the user doesn't say."""

from dataclasses import dataclass
from enum import StrEnum

from mafunzo.errors import InvalidParameter, did_you_mean

OPENVINO_EXTRA = "pip install 'mafunzo[openvino]'"
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
    """torch: every architecture, on any device, with adapters. openvino: faster on x86-64. auto: openvino where it can."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


@dataclass(frozen=True)
class EngineFacts:
    """What decides it. weights_mb: of the network in float32. memory_mb: of this machine.
    instances: how many workers there may be. is_installed: OpenVINO's runtime."""

    model_type: str = ""
    weights_mb: int = 0
    memory_mb: int = 0
    instances: int = 1
    has_adapter: bool = False
    has_gpu: bool = False
    processor: str = "x86_64"
    is_installed: bool = False


@dataclass(frozen=True)
class EngineChoice:
    """The engine, and why it isn't the other one, or an empty text."""

    engine: Engine
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.engine} ({self.reason})" if self.reason else str(self.engine)


def choose(asked: Engine, facts: EngineFacts) -> EngineChoice:
    """Return the engine that serves: OpenVINO's runtime unless something speaks against it, torch where the user says so."""
    if asked is Engine.TORCH:
        return EngineChoice(Engine.TORCH)
    reason = _obstacle(facts)
    if not reason and asked is Engine.AUTO and facts.weights_mb < LEAST_WEIGHTS_MB:
        reason = f"a network of {facts.weights_mb} MB gains nothing from openvino"
    return EngineChoice(Engine.TORCH, reason) if reason else EngineChoice(Engine.OPENVINO)


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
