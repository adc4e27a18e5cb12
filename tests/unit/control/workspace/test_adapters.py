"""Tests of `mafunzo.control.workspace.adapters` without a server: what is refused, and what is written down."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.entities.adapter import AdapterState, AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from mafunzo.errors import Conflict, InvalidParameter, NotFound, ServerFailed, ServingMismatch
from tests.support.chat_home import TOO_SLOW, chat_home, deployed

LIVE, REFUSED = AdapterStatus.LIVE, AdapterStatus.REFUSED


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A healthy deployment of `chat:1`, and two registered adapters of it, red and blue."""
    with chat_home(tmp_path) as opened:
        deployed(opened, "default", DeploymentStatus.HEALTHY, port=9, attempt=1)
        for name in ("red", "blue"):
            register(opened, tmp_path / name, name)
        yield opened


def register(workspace: Workspace, folder: Path, name: str, is_of_base: bool = True) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text(name)
    (folder / "mafunzo_model.json").write_text(json.dumps({}))
    asset = workspace.models.register(folder, name=name)
    base = workspace.models.get("chat:1").artifact if is_of_base else "sha256:0"
    workspace.records.assets.update(replace(asset, properties={**asset.properties, "base_artifact": base}))


def deployment(workspace: Workspace) -> Deployment:
    return workspace.deployments.get("chat", "default")


def stand(workspace: Workspace, name: str, status: AdapterStatus, error: Any = None) -> None:
    """Write what the supervisor would write."""
    now = deployment(workspace)
    state = AdapterState(now.adapters[name].artifact, now.attempt, status, 1, {"result": "verified"}, error)
    workspace.records.deployments.update(replace(now, adapter_states={**now.adapter_states, name: state}))


def add(workspace: Workspace, name: str, model: str = "") -> None:
    """Write an adapter down; nobody is there who would load it."""
    with pytest.raises(ServerFailed):
        workspace.adapters.add("chat", name, model or name)


def test_an_adapter_is_written_down_and_stays_where_the_server_stops(workspace: Workspace) -> None:
    add(workspace, "red")
    assert deployment(workspace).adapters["red"].model == "red:1"
    assert deployment(workspace).models == {"chat:1", "red:1"}
    with pytest.raises(Conflict, match=r"Model red:1 is served by chat/default"):
        workspace.models.delete("red:1")
    [found] = workspace.adapters.list("chat")
    assert (found.model_name, found.status) == ("chat:red", AdapterStatus.LOADING)


def test_one_that_is_live_already_is_returned_at_once(workspace: Workspace) -> None:
    add(workspace, "red")
    stand(workspace, "red", LIVE)
    found = workspace.adapters.add("chat", "red", "red")
    assert (found.status, found.verification) == (LIVE, {"result": "verified"})
    with pytest.raises(Conflict, match=r"chat:red is red:1. Choose another name, or remove that first"):
        workspace.adapters.add("chat", "red", "blue")


def test_one_that_is_refused_is_told_why_and_taken_away_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ServingMismatch("It doesn't answer as it did.", ("adapter: row 0",))
    monkeypatch.setattr(workspace.services.__class__, "up", lambda self: None, raising=False)
    monkeypatch.setattr(
        "mafunzo.control.workspace.adapters.require_server_for_deployment",
        lambda services, current: stand(workspace, "red", REFUSED, error.record),
    )
    with pytest.raises(ServingMismatch) as caught:
        workspace.adapters.add("chat", "red", "red")
    assert caught.value.faults == ("adapter: row 0",)
    assert deployment(workspace).adapters == {}


def test_a_refused_one_that_is_added_again_is_tried_again(workspace: Workspace) -> None:
    add(workspace, "red")
    stand(workspace, "red", REFUSED, TOO_SLOW)
    assert workspace.adapters.list("chat")[0].error == TOO_SLOW
    add(workspace, "red")
    assert deployment(workspace).adapter_states == {}


@pytest.mark.parametrize(
    ("name", "model", "text"),
    [
        pytest.param("r:d", "red", "The adapter's name is 'r:d'", id="a name that can't be"),
        pytest.param("red", "chat", "it is no LoRA adapter", id="whole weights"),
        pytest.param("red", "other", "it was trained on another base", id="another base"),
        pytest.param("red", "tiny-llama", "expected a registered adapter", id="of the catalogue"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name_and_nothing_is_written(
    workspace: Workspace, tmp_path: Path, name: str, model: str, text: str
) -> None:
    register(workspace, tmp_path / "other", "other", is_of_base=False)
    with pytest.raises(InvalidParameter, match=text):
        workspace.adapters.add("chat", name, model)
    assert deployment(workspace).adapters == {}


def test_a_deployment_that_failed_takes_none(workspace: Workspace) -> None:
    workspace.records.deployments.update(replace(deployment(workspace), status=DeploymentStatus.FAILED))
    with pytest.raises(Conflict, match="is failed: no adapter can be added"):
        workspace.adapters.add("chat", "red", "red")


def test_removing_waits_for_the_workers_and_an_unknown_name_is_told(workspace: Workspace) -> None:
    add(workspace, "red")
    with pytest.raises(NotFound, match="has no adapter 'blue'"):
        workspace.adapters.remove("chat", "blue")
    stand(workspace, "red", LIVE)
    with pytest.raises(ServerFailed):
        workspace.adapters.remove("chat", "red")
    assert deployment(workspace).adapters == {}
    add(workspace, "blue")
    workspace.adapters.remove("chat", "blue")


def test_an_update_to_a_base_that_adapters_do_not_fit_is_refused_by_their_names(
    workspace: Workspace, tmp_path: Path
) -> None:
    add(workspace, "red")
    now = deployment(workspace)
    healthy = replace(now, supervision=replace(now.supervision, was_healthy=True))
    workspace.records.deployments.update(healthy)
    (folder := tmp_path / "second").mkdir()
    (folder / "config.json").write_text("{ }")
    workspace.models.register(folder, name="chat")
    with pytest.raises(Conflict) as caught:
        workspace.deployments.update("chat", "default", "chat:2")
    assert caught.value.faults == ("red (red:1): it was trained on another base.",)
