"""Which engine a deployment's workers get: the facts that decide it, gathered where the server runs.

What vLLM computes is read from the list in its package, of the very version that is installed: importing it would take torch,
and seconds.
"""

import ast
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mafunzo.control.serving.memory import architectures, model_type, weights_mb
from mafunzo.control.serving.reference import is_adapter
from mafunzo.control.store.artifact import Artifacts
from mafunzo.entities.engine import (
    OPENVINO_EXTRA,
    Engine,
    EngineChoice,
    EngineFacts,
    choose,
    vllm_adapter_fault,
    vllm_faults,
)
from mafunzo.entities.job import Resources
from mafunzo.errors import Faults, NotSupported

REGISTRY = Path("model_executor", "models", "registry.py")
TABLES = frozenset({"_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS"})
"""vLLM's tables from architecture to module, those of networks that generate text."""


def is_installed() -> bool:
    """Return whether OpenVINO's runtime is installed, without loading it."""
    return find_spec("openvino") is not None


def is_vllm_installed() -> bool:
    """Return whether vLLM is installed, by its package's metadata."""
    try:
        return bool(version("vllm"))
    except PackageNotFoundError:
        return False


def vllm_architectures() -> frozenset[str] | None:
    """Return the architectures that the installed vLLM computes; None where it isn't there, or its list isn't where it was."""
    spec = find_spec("vllm")
    places = [Path(place) / REGISTRY for place in (spec.submodule_search_locations or () if spec else ())]
    registry = next((place for place in places if place.is_file()), None)
    return None if registry is None else _listed(registry, registry.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _listed(registry: Path, mtime_ns: int) -> frozenset[str] | None:
    try:
        module = ast.parse(registry.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    names: set[str] = set()
    for node in module.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and any(isinstance(one, ast.Name) and one.id in TABLES for one in targets):
            names |= {str(key.value) for key in value.keys if isinstance(key, ast.Constant)}
    return frozenset(names) or None


def require_engine(engine: Engine | None, capacity: Resources | None = None) -> None:
    """Raise `NotSupported` for an engine that was asked for and isn't installed, or has no GPU.

    capacity: of this machine, where that is known already.
    """
    if engine is Engine.OPENVINO and not is_installed():
        raise NotSupported(f"engine is openvino, which isn't installed: {OPENVINO_EXTRA}, or take torch.")
    if engine is Engine.VLLM:
        _require_vllm(EngineFacts(has_gpu=_capacity(capacity).gpus > 0, has_vllm=is_vllm_installed()))


def require_computed(
    engine: Engine | None,
    artifacts: Artifacts,
    artifact: str,
    base_artifact: str | None,
    capacity: Resources | None = None,
) -> None:
    """Raise `NotSupported` for a model that the engine which was asked for doesn't compute, with all that speaks against it.

    OpenVINO's runtime has torch in its place, which serves the same; vLLM is taken for what only it gives.
    """
    if engine is Engine.VLLM:
        facts = EngineFacts(has_gpu=_capacity(capacity).gpus > 0)
        _require_vllm(_with_vllm(facts, artifacts, artifact, base_artifact))


def _require_vllm(facts: EngineFacts) -> None:
    faults = Faults()
    faults.add(*(f"{fault}." for fault in vllm_faults(facts)))
    faults.require_none("engine is vllm, which can't serve it. Take torch, or auto.", NotSupported)


def _capacity(known: Resources | None) -> Resources:
    if known is not None:
        return known
    from mafunzo.control.launcher.hardware import capacity, hardware

    return capacity(hardware())


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
        has_adapter=is_adapter({file.path for file in artifacts.manifest(artifact)}) or has_adapters,
        has_gpu=capacity.gpus > 0,
        processor=platform.machine(),
        is_installed=is_installed(),
    )
    if asked is Engine.VLLM or facts.has_gpu:
        facts = _with_vllm(facts, artifacts, artifact, base_artifact)
    return choose(asked, facts)


def _with_vllm(facts: EngineFacts, artifacts: Artifacts, artifact: str, base_artifact: str | None) -> EngineFacts:
    """Add what decides whether vLLM computes a model."""
    has_vllm = is_vllm_installed()
    return replace(
        facts,
        architectures=architectures(artifacts, [one for one in (artifact, base_artifact) if one]),
        has_vllm=has_vllm,
        vllm_architectures=vllm_architectures() if has_vllm else None,
        adapter_fault=vllm_adapter_fault(_adapter_config(artifacts, artifact)) if base_artifact else "",
    )


def _adapter_config(artifacts: Artifacts, artifact: str) -> Mapping[str, Any]:
    """Return the `adapter_config.json` of a model that is an adapter; nothing where it can't be read."""
    for file in artifacts.manifest(artifact):
        if file.path.rpartition("/")[2] == "adapter_config.json":
            try:
                body = json.loads(artifacts.open_file(artifact, file.path).read_bytes())
            except (OSError, ValueError):
                return {}
            return body if isinstance(body, dict) else {}
    return {}
