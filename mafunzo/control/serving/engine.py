"""Which engine a deployment's workers get: the facts that decide it, gathered where the server runs."""

import platform
from importlib.util import find_spec

from mafunzo.control.serving.memory import model_type, weights_mb
from mafunzo.control.store.artifact import Artifacts
from mafunzo.entities.engine import OPENVINO_EXTRA, Engine, EngineChoice, EngineFacts, choose
from mafunzo.entities.job import Resources
from mafunzo.errors import NotSupported


def is_installed() -> bool:
    """Return whether OpenVINO's runtime is installed, without loading it."""
    return find_spec("openvino") is not None


def require_engine(engine: Engine | None) -> None:
    """Raise `NotSupported` for an engine that was asked for and isn't installed."""
    if engine is Engine.OPENVINO and not is_installed():
        raise NotSupported(f"engine is openvino, which isn't installed: {OPENVINO_EXTRA}, or take torch.")


def engine_of(
    asked: Engine,
    artifacts: Artifacts,
    artifact: str,
    base_artifact: str | None,
    capacity: Resources,
    instances: int = 1,
    has_adapters: bool = False,
) -> EngineChoice:
    """Return what computes a model, by its hash and that of its base under an adapter, on this machine.

    instances: how many workers there may be. has_adapters: whether they serve any beside the model.
    """
    if asked is Engine.TORCH:
        return EngineChoice(Engine.TORCH)
    facts = EngineFacts(
        model_type=model_type(artifacts, artifact),
        weights_mb=weights_mb(artifacts, [artifact], frozenset()),
        memory_mb=int(capacity.memory_mb),
        instances=instances,
        has_adapter=base_artifact is not None or has_adapters,
        has_gpu=capacity.gpus > 0,
        processor=platform.machine(),
        is_installed=is_installed(),
    )
    return choose(asked, facts)
