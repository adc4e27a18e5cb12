"""The https port's application in this process, over a home with a chat model and an endpoint, and with whoever asks it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
from fastapi.testclient import TestClient

from mafunzo import Workspace
from mafunzo.entrypoints.azure.application import create_azure_app
from mafunzo.entrypoints.azure.context import AzureContext
from mafunzo.entrypoints.azure.wire.envelope import Place, workspace_id
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.identity import Attempt, Caller, identity_of
from mafunzo.entrypoints.http.limits import Limits
from tests.support.chat_home import chat_home

BASE = "https://127.0.0.1:8443"


class Client:
    """Asks as one user; paths are below the workspace's id unless they begin with a slash."""

    def __init__(self, app: Any, token: str) -> None:
        self.http = TestClient(app, base_url=BASE, headers={"authorization": f"Bearer {token}"} if token else {})

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        url = path if path.startswith("/") else f"{workspace_id()}/{path}"
        return self.http.request(method, url, json=body) if body is not None else self.http.request(method, url)

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refusal(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Return the status and the message of a request that is refused."""
        answer = self.ask(method, path, body)
        return answer.status_code, answer.json()["error"]["message"]


class Bench:
    """One server over a home that is open."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.running: set[Attempt] = set()
        self.identity = identity_of(workspace.home, workspace.user)
        audit = SimpleNamespace(append=lambda entry: None)
        serving = cast(
            Context,
            SimpleNamespace(
                audit=audit,
                names=["127.0.0.1"],
                limits=Limits(),
                operator_key="operator's",
                is_running=lambda attempt: attempt in self.running,
            ),
        )
        context = AzureContext(
            caller=self.identity.owner,
            place=Place(BASE),
            identity=self.identity,
            workspace=workspace,
            job_logs=cast(Any, None),
            serving=serving,
            http_port=8080,
        )
        self.app = create_azure_app(context)
        self.owner = self.client(self.identity.owner)
        self.stranger = Client(self.app, "")

    def client(self, caller: Caller) -> Client:
        token, _ = self.identity.token(BASE, caller)
        return Client(self.app, token)

    def user(self, name: str, role: str) -> Client:
        """Add a user, and return what asks as them."""
        user, _ = self.workspace.users.create(name, role)
        return self.client(Caller(name, user.role, user.token_id))


@contextmanager
def azure_bench(folder: Path) -> Iterator[Bench]:
    """Open a home with the model `chat:1` and the endpoint `chat`, and a server over it."""
    with chat_home(folder) as workspace:
        yield Bench(workspace)
