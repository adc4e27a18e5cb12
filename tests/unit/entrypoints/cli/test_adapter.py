"""Tests of `mafunzo endpoint adapter` over a home with an endpoint whose workers don't run."""

import json
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.adapters import Adapters
from mafunzo.entities.adapter import Adapter, AdapterReport, AdapterState, AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from tests.support.command_line import Shell


@pytest.fixture
def endpoint(workspace: Workspace) -> str:
    """The endpoint `chat` with an adapter that is live, and one that was refused."""
    error = {"code": "serving_mismatch", "message": "It differs.", "faults": ["adapter: row 0"]}
    states = {
        "red": AdapterState("sha256:1", 1, AdapterStatus.LIVE),
        "bad": AdapterState("sha256:2", 1, AdapterStatus.REFUSED, error=error),
    }
    adapters = {"red": Adapter("red:1", "sha256:1"), "bad": Adapter("bad:3", "sha256:2")}
    workspace.endpoints.create("chat")
    made = Deployment("chat", "default", "m:1", "sha256:0", DeploymentStatus.HEALTHY, port=9, attempt=1)
    made = Deployment(**{**vars(made), "adapters": adapters, "adapter_states": states})
    workspace.records.deployments.add(made)
    return "chat"


def test_adapters_are_listed_with_why_one_was_refused(shell: Shell, endpoint: str) -> None:
    rows = [line.split() for line in shell("endpoint", "adapter", "list", "chat").splitlines()]
    assert rows[0] == ["name", "deployment", "model", "status", "why"]
    assert rows[1] == ["chat:bad", "default", "bad:3", "refused", "It", "differs.", "adapter:", "row", "0"]
    assert rows[2] == ["chat:red", "default", "red:1", "live"]
    body = json.loads(shell("endpoint", "adapter", "list", "chat", "--json"))
    assert [(one["model_name"], one["status"]) for one in body] == [("chat:bad", "refused"), ("chat:red", "live")]
    assert "red:1" in shell("endpoint", "show", "chat")
    assert "adapter_states" not in shell("endpoint", "show", "chat", "--json")


def test_adding_and_removing_say_what_was_done(shell: Shell, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def add(self: Adapters, endpoint: str, name: str, model: str, **more: Any) -> AdapterReport:
        asked.append((endpoint, name, model, more))
        return AdapterReport("chat:blue", "default", "blue:2", AdapterStatus.LIVE, {}, {"result": "verified"})

    monkeypatch.setattr(Adapters, "add", add)
    monkeypatch.setattr(Adapters, "remove", lambda self, *names, **more: asked.append((*names, more)))
    assert shell("endpoint", "adapter", "add", "chat", "blue", "blue", "--timeout", "5") == (
        "chat:blue (blue:2) is live: verified\n"
    )
    assert shell("endpoint", "adapter", "remove", "chat", "blue") == "Removed chat:blue\n"
    assert asked == [
        ("chat", "blue", "blue", {"deployment": "default", "timeout_s": 5.0}),
        ("chat", "blue", {"deployment": "default"}),
    ]
