"""A home with a store, and a supervisor whose workers are fakes: real processes without a model."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.control.serving.supervisor import Supervisor
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.entities.adapter import Adapter
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.entities.job import Resources
from tests.support.fake_worker import reference
from tests.support.waiting import pause, until

FAKE_WORKER = Path(__file__).parent / "fake_worker.py"


class Bench:
    """A supervisor and all that stands around it; `moved_s` moves its clock."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root / "home")
        self.files = root / "files"
        self.database = open_database(self.home)
        self.records = Records(self.database)
        self.artifacts = Artifacts(self.home.artifacts)
        self.leases = Leases(self.database)
        self.moved_s = 0.0
        self.supervisors: list[Supervisor] = []
        self.supervisor = self.new_supervisor()

    def new_supervisor(self, memory_mb: int = 4000) -> Supervisor:
        """What a server that starts after this one would have."""
        capacity = Resources(cpus=2, gpus=0, memory_mb=memory_mb)
        made = Supervisor(
            self.records,
            self.artifacts,
            self.leases,
            LocalLauncher(),
            self.home,
            capacity,
            worker=(sys.executable, str(FAKE_WORKER)),
            clock=lambda: time.time() + self.moved_s,
        )
        self.supervisors.append(made)
        self.supervisor = made
        return made

    def model(self, settings: dict[str, Any] | None = None, with_reference: bool = True) -> str:
        """Put a model into the store whose worker behaves as `settings` say; its reference is of one that behaves well."""
        folder = self.files / str(len(list(self.files.glob("*"))))
        folder.mkdir(parents=True)
        (folder / "fake.json").write_text(json.dumps(settings or {}))
        if with_reference:
            (folder / "serving_reference.json").write_text(json.dumps(reference()))
        return self.artifacts.put(folder)

    def adapter(self, settings: dict[str, Any] | None = None, base: str | None = None) -> str:
        """Put an adapter into the store that makes the worker behave as `settings` say; base: the weights it was trained on."""
        folder = self.files / f"adapter-{len(list(self.files.glob('*')))}"
        folder.mkdir(parents=True)
        (folder / "fake.json").write_text(json.dumps({"reply": "hello from the adapter"} | (settings or {})))
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(folder.name.encode())
        (folder / "serving_reference.json").write_text(json.dumps(reference()))
        facts = {} if base is None else {"base": {"name": "its-base", "weights_sha256": base}}
        (folder / "mafunzo_model.json").write_text(json.dumps(facts))
        return self.artifacts.put(folder)

    def add_adapter(self, name: str, artifact: str, deployment: str = "blue") -> None:
        """Write what `Workspace.adapters.add` writes."""
        added = Adapter(f"{name}:1", artifact)
        self.records.deployments.change(
            "chat", deployment, lambda now: replace(now, adapters={**now.adapters, name: added})
        )

    def remove_adapter(self, name: str) -> None:
        self.records.deployments.change(
            "chat",
            "blue",
            lambda now: replace(now, adapters={one: it for one, it in now.adapters.items() if one != name}),
        )

    def deploy(self, artifact: str, endpoint: str = "chat", name: str = "blue", **more: Any) -> Deployment:
        if endpoint not in [e.name for e in self.records.endpoints.list()]:
            self.records.endpoints.add(Endpoint(endpoint, {name: 100}), keys=(f"{endpoint}-key-1", f"{endpoint}-key-2"))
        return self.records.deployments.add(Deployment(endpoint, name, "m:1", artifact, **more))

    def find(self, endpoint: str = "chat", name: str = "blue") -> Deployment:
        return self.records.deployments.get(endpoint, name)

    def tick_until(self, is_reached: Callable[[], Any]) -> None:
        until(is_reached, self.records.deployments.list, self.tick)

    def tick(self) -> None:
        self.supervisor.tick()
        pause()

    def settle(self, status: DeploymentStatus, name: str = "blue") -> Deployment:
        self.tick_until(lambda: self.find(name=name).status is status)
        return self.find(name=name)

    def close(self) -> None:
        for folder in self.home.workers.glob("*/*/*"):
            LocalLauncher().kill(folder, 1.0)
        for supervisor in self.supervisors:
            supervisor.close()
        self.database.close()
