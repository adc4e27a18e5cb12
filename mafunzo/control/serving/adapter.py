"""What the supervisor does about the adapters of a healthy worker (pure), and whether an adapter's files fit a base.

An adapter's way on one worker: it is loaded, compared with the tuned model, and live, or refused; one that is not wanted
is unloaded. One after another, so that a worker is never busy with several. A worker that starts again begins with none.
"""

import json
from dataclasses import dataclass
from typing import Any

from mafunzo.control.serving.decide import OfDeployment, Verdict, WorkerState
from mafunzo.control.serving.reference import ADAPTER_PLACES, FACTS_FILE, is_adapter, wrong_base_weights
from mafunzo.control.store.artifact import Artifacts
from mafunzo.entities.adapter import AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus

MAX_LOADS = 3
"""Workers that may end while they load an adapter, or prove it, before that adapter is refused."""


@dataclass(frozen=True)
class LoadAdapter(OfDeployment):
    """Begin to load an adapter into a worker, and to prove it."""

    name: str
    loads: int


@dataclass(frozen=True)
class UnloadAdapter(OfDeployment):
    """Begin to unload an adapter, or another version of it, that a worker isn't to have any more."""

    name: str


@dataclass(frozen=True)
class EndAdapter(OfDeployment):
    """Write down how the loading or unloading of an adapter has ended."""

    name: str
    artifact: str
    is_unloaded: bool
    verdict: Verdict


@dataclass(frozen=True)
class RefuseAdapter(OfDeployment):
    """Give an adapter up: worker after worker ended with it."""

    name: str


AdapterAction = LoadAdapter | UnloadAdapter | EndAdapter | RefuseAdapter


def decide_adapter(worker: Deployment, state: WorkerState) -> AdapterAction | None:
    """Return the next thing to do about the adapters of a worker, if any; `worker` is a deployment with that one alone."""
    if worker.status is not DeploymentStatus.HEALTHY or not state.is_running or worker.port is None:
        return None
    work = state.adapter_work
    if work is not None:
        if work.verdict is None:
            return None
        return EndAdapter(worker, work.name, work.artifact, work.is_unloading, work.verdict)
    for name, known in worker.adapter_states.items():
        if known.attempt == worker.attempt and worker.adapter_state(name) is None:
            return UnloadAdapter(worker, name)
    waiting = [name for name in worker.adapters if worker.adapter_status(name) is AdapterStatus.LOADING]
    return _load(worker, waiting[0]) if waiting else None


def _load(worker: Deployment, name: str) -> AdapterAction:
    known, loads = worker.adapter_states.get(name), 1
    is_begun = known is not None and known.artifact == worker.adapters[name].artifact
    if known is not None and is_begun and known.status is AdapterStatus.LOADING:
        loads = known.loads + (known.attempt != worker.attempt)
    return RefuseAdapter(worker, name) if loads > MAX_LOADS else LoadAdapter(worker, name, loads)


def misfit(artifacts: Artifacts, artifact: str, base: str, trained_on: str | None) -> str:
    """Return why an adapter's package can't be served on the model `base` (both by their hashes), or an empty text.

    What it was trained on is known by the hash of the weights that its package names, else by `trained_on`, the base's hash.
    """
    files = {file.path for file in artifacts.manifest(artifact)}
    if not is_adapter(files):
        return "it is no LoRA adapter: it has neither adapter_config.json nor data/adapter/adapter_config.json"
    if not any(f"{place}adapter_model.safetensors" in files for place in ADAPTER_PLACES):
        return "its adapter_model.safetensors is missing"
    facts = _facts(artifacts, artifact) if FACTS_FILE in files else {}
    of_base = facts.get("base") or {}
    if of_base.get("weights_sha256"):
        fault = wrong_base_weights(of_base, artifacts.manifest(base))
        return fault.removeprefix("adapter: ").removesuffix(".")
    if trained_on is None:
        return "its package doesn't say which base it was trained on"
    return "" if trained_on == base else "it was trained on another base"


def _facts(artifacts: Artifacts, artifact: str) -> dict[str, Any]:
    return dict(json.loads(artifacts.open_file(artifact, FACTS_FILE).read_text(encoding="utf-8")))
