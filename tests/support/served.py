"""A home whose server is a process of its own, with fake workers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai

from mafunzo.control.launcher.server_process import find_server
from mafunzo.control.workspace.shutdown import shut_down
from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from mafunzo.entities.server_address import ServerAddress
from tests.support.serving_bench import Bench
from tests.support.waiting import LIMIT_S, until

RUN_SERVER = Path(__file__).parent / "run_server.py"


class Served(Bench):
    """A home whose server is a process of its own; this process only writes what a user asks for."""

    address: ServerAddress

    def start(self) -> None:
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": root}
        self.process = subprocess.Popen([sys.executable, str(RUN_SERVER), str(self.home.root), "0"], env=environment)
        self.address = until(self.find_server)

    def find_server(self) -> ServerAddress | None:
        """The server's address, once it tells it; one that has ended instead fails the test."""
        assert self.process.poll() is None, f"The server ended with {self.process.returncode}."
        return find_server(self.home)

    def wait_for(self, is_reached: Any) -> None:
        until(is_reached, self.records.deployments.list)

    def go_live(self, settings: dict[str, Any] | None = None, endpoint: str = "chat", **more: Any) -> Deployment:
        name = more.pop("name", "blue")
        self.deploy(self.model(settings), endpoint, name, **more)
        self.wait_for(lambda: self.find(endpoint, name).status is DeploymentStatus.HEALTHY)
        return self.find(endpoint, name)

    def client(self, key: str = "chat-key-1", **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address.url}/v1", api_key=key, max_retries=0, **more)

    def say(self, content: str, key: str = "chat-key-1", model: str = "chat", **more: Any) -> Any:
        return self.client(key).chat.completions.create(
            model=model, messages=[{"role": "user", "content": content}], **more
        )

    def wait_until_logged(self, text: str) -> None:
        """Wait for a line of the logs: a request's is written once its answer has been sent."""
        until(lambda: text in self.logged(), self.logged)

    def logged(self) -> str:
        return "".join(file.read_text() for file in self.home.logs.iterdir())

    def stop(self) -> None:
        shut_down(self.home)
        self.process.wait(LIMIT_S)
        self.close()
