"""What is done next about a worker's adapters, and which packages fit a base."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.serving.adapter import (
    MAX_LOADS,
    AdapterAction,
    EndAdapter,
    LoadAdapter,
    RefuseAdapter,
    UnloadAdapter,
    decide_adapter,
    misfit,
)
from mafunzo.control.serving.decide import AdapterWork, Verdict, WorkerState
from mafunzo.control.store.artifact import Artifacts
from mafunzo.entities.adapter import Adapter, AdapterState, AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus

LOADING, LIVE, REFUSED = AdapterStatus.LOADING, AdapterStatus.LIVE, AdapterStatus.REFUSED
RUNNING = WorkerState(is_running=True)


def worker(
    wanted: dict[str, str], known: dict[str, AdapterState], status: DeploymentStatus = DeploymentStatus.HEALTHY
) -> Deployment:
    adapters = {name: Adapter(f"{name}:1", artifact) for name, artifact in wanted.items()}
    return Deployment(
        "chat",
        "blue",
        "m:1",
        "sha256:0",
        status,
        port=9,
        attempt=2,
        adapters=adapters,
        adapter_states=known,
    )


def state(status: AdapterStatus, artifact: str = "a", attempt: int = 2, loads: int = 1) -> AdapterState:
    return AdapterState(artifact, attempt, status, loads)


WANTED = worker({"red": "a"}, {})


@pytest.mark.parametrize(
    ("deployment", "seen", "expected"),
    [
        pytest.param(WANTED, RUNNING, LoadAdapter(WANTED, "red", 1), id="load what is missing"),
        pytest.param(
            worker({"red": "a"}, {}, DeploymentStatus.VERIFYING), RUNNING, None, id="not before it is healthy"
        ),
        pytest.param(WANTED, WorkerState(), None, id="nor when it has ended"),
        pytest.param(worker({"red": "a"}, {"red": state(LIVE)}), RUNNING, None, id="live: nothing"),
        pytest.param(worker({"red": "a"}, {"red": state(REFUSED)}), RUNNING, None, id="refused: nothing"),
        pytest.param(
            WANTED, WorkerState(is_running=True, adapter_work=AdapterWork("x", "b")), None, id="one after another"
        ),
        pytest.param(
            WANTED,
            WorkerState(is_running=True, adapter_work=AdapterWork("x", "b", verdict=Verdict())),
            EndAdapter(WANTED, "x", "b", False, Verdict()),
            id="the end of one",
        ),
        pytest.param(
            gone := worker({}, {"red": state(LIVE)}), RUNNING, UnloadAdapter(gone, "red"), id="unload what isn't wanted"
        ),
        pytest.param(
            other := worker({"red": "b"}, {"red": state(LIVE)}),
            RUNNING,
            UnloadAdapter(other, "red"),
            id="and another version",
        ),
        pytest.param(
            again := worker({"red": "a"}, {"red": state(LIVE, attempt=1)}),
            RUNNING,
            LoadAdapter(again, "red", 1),
            id="load again into the next worker",
        ),
        pytest.param(
            begun := worker({"red": "a"}, {"red": state(LOADING)}),
            RUNNING,
            LoadAdapter(begun, "red", 1),
            id="begun by a server before this one",
        ),
        pytest.param(
            second := worker({"red": "a"}, {"red": state(LOADING, attempt=1)}),
            RUNNING,
            LoadAdapter(second, "red", 2),
            id="a worker ended with it",
        ),
        pytest.param(
            last := worker({"red": "a"}, {"red": state(LOADING, attempt=1, loads=MAX_LOADS)}),
            RUNNING,
            RefuseAdapter(last, "red"),
            id="several workers ended with it",
        ),
    ],
)
def test_the_next_thing_about_a_worker_s_adapters(
    deployment: Deployment, seen: WorkerState, expected: AdapterAction | None
) -> None:
    assert decide_adapter(deployment, seen) == expected


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def put(artifacts: Artifacts, folder: Path, files: dict[str, Any]) -> str:
    for name, content in files.items():
        (path := folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return artifacts.put(folder)


def hash_of(weights: str) -> str:
    line = f"{hashlib.sha256(weights.encode()).hexdigest()}  model.safetensors\n"
    return hashlib.sha256(line.encode()).hexdigest()


CONFIG, WEIGHTS = {"data/adapter/adapter_config.json": "{}"}, {"data/adapter/adapter_model.safetensors": "w"}


def facts(weights: str) -> dict[str, Any]:
    return {"mafunzo_model.json": {"base": {"name": "its-base", "weights_sha256": hash_of(weights)}}}


@pytest.mark.parametrize(
    ("files", "trained_on", "text"),
    [
        pytest.param(CONFIG | WEIGHTS | facts("base"), None, "", id="the hash of the base's weights"),
        pytest.param(
            CONFIG | WEIGHTS | facts("other"), "base", "trained on its-base with weights", id="another's hash"
        ),
        pytest.param(CONFIG | WEIGHTS, "base", "", id="no hash, but the same base"),
        pytest.param(CONFIG | WEIGHTS, "sha256:1", "it was trained on another base", id="no hash, and another"),
        pytest.param(CONFIG | WEIGHTS, None, "doesn't say which base", id="nothing is known"),
        pytest.param({"config.json": "{}"}, None, "it is no LoRA adapter", id="whole weights"),
        pytest.param(CONFIG, None, "its adapter_model.safetensors is missing", id="no weights"),
    ],
)
def test_a_package_fits_the_base_that_it_was_trained_on(
    artifacts: Artifacts, tmp_path: Path, files: dict[str, Any], trained_on: str | None, text: str
) -> None:
    base = put(artifacts, tmp_path / "base", {"config.json": "{}", "model.safetensors": "base"})
    adapter = put(artifacts, tmp_path / "adapter", files)
    fault = misfit(artifacts, adapter, base, base if trained_on == "base" else trained_on)
    assert (text in fault) if text else fault == ""
