"""A home with a model that can be served, and an endpoint, but no server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mafunzo import Workspace
from mafunzo.control.workspace.endpoints import EndpointHandle
from mafunzo.entities.endpoint import Deployment, DeploymentStatus

TOO_SLOW = {"code": "worker_failed", "message": "It was too slow.", "faults": ["a: 1", "b: 2"]}


class Home(Workspace):
    """A workspace whose server never starts."""

    def up(self) -> Any:
        return None


@contextmanager
def chat_home(folder: Path) -> Iterator[Workspace]:
    """Open a workspace with a registered model, `chat:1`, and an endpoint, `chat`."""
    with Home(folder / "home", port=0) as workspace:
        (model := folder / "model").mkdir()
        (model / "config.json").write_text("{}")
        workspace.models.register(model, name="chat")
        workspace.endpoints.create("chat")
        yield workspace


def deployed(workspace: Workspace, name: str, status: DeploymentStatus, **more: Any) -> Deployment:
    artifact = workspace.models.get("chat:1").artifact or ""
    return workspace.records.deployments.add(Deployment("chat", name, "chat:1", artifact, status, **more))


def chat(workspace: Workspace) -> EndpointHandle:
    return workspace.endpoints.get("chat")
