"""Both ports' applications in this process over one router, and a worker that is a web application of this process too."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import httpx
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.control.serving.router import Router
from mafunzo.control.store.home import Home
from mafunzo.control.workspace.responses import Responses
from mafunzo.control.workspace.services import Services
from mafunzo.entities.adapter import Adapter, AdapterState, AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.entities.mirror import MirrorReport
from mafunzo.entities.user import AuditEntry
from mafunzo.entrypoints.azure.application import create_azure_app
from mafunzo.entrypoints.azure.context import AzureContext
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.directory import Entry, Snapshot, digest
from mafunzo.entrypoints.http.limits import Limits
from mafunzo.entrypoints.serve.application import create_app

HOST = "127.0.0.1"
KEY = "key-of-chat"
OPERATOR_KEY = "key-of-the-operator"
CHAT = "/v1/chat/completions"
SCORE = "/endpoints/chat/score"
REQUEST_TIMEOUT_S = 90.0


async def answer(request: web.Request) -> web.StreamResponse:
    """A worker that repeats what was said last; `refuse` and `break off` are what it does for those words.

    Its answer to `take 30` says that it took 30 tokens.
    """
    said = (await request.json())["messages"][-1]["content"]
    if said == "refuse":
        return web.json_response({"error": {"message": "no"}}, status=400)
    if said == "break off":
        assert request.transport is not None
        request.transport.abort()
    if said.startswith("take "):
        usage = {"usage": {"total_tokens": int(said.split()[1])}}
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": said}}], **usage})
    return web.json_response({"choices": [{"message": {"role": "assistant", "content": said}}]})


class Bench:
    """One endpoint, chat, whose deployment blue is healthy. home: where responses are stored, if there are any."""

    def __init__(self, limits: Limits = Limits(), home: Home | None = None) -> None:  # noqa: B008
        self.metrics = CollectorRegistry()
        self.router = Router(RequestMetrics(self.metrics), limits.requests_in_flight)
        self.port: int | None = None
        self.adapters: dict[str, AdapterStatus] = {}
        self.once_live: set[str] = set()
        self.endpoint = Endpoint("chat", {"blue": 100})
        parts = {"metrics": self.metrics, "router": self.router, "limits": limits, "names": [HOST]}
        parts |= {"directory": SimpleNamespace(newest=self._newest), "operator_key": OPERATOR_KEY}
        self.audited: list[AuditEntry] = []
        self.report = MirrorReport("green", compared=7)
        parts |= {"mirror_report": lambda name: self.report}
        parts |= {"responses": Responses(cast(Services, SimpleNamespace(home=home)))}
        parts |= {"audit": SimpleNamespace(append=self.audited.append)}
        serving = cast(Context, SimpleNamespace(**parts))
        self.http_app: FastAPI = create_app(serving)
        self.azure_app: FastAPI = create_azure_app(cast(AzureContext, SimpleNamespace(serving=serving)))

    async def _newest(self) -> Snapshot:
        blue = Deployment(
            "chat",
            "blue",
            "m:1",
            "sha256:0",
            status=DeploymentStatus.HEALTHY,
            port=self.port,
            request_timeout_s=REQUEST_TIMEOUT_S,
            adapters={name: Adapter(f"{name}:1", "sha256:a", name in self.once_live) for name in self.adapters},
            adapter_states={name: AdapterState("sha256:a", 0, status) for name, status in self.adapters.items()},
        )
        return Snapshot([Entry(self.endpoint, (digest(KEY), digest("other")), [blue])])

    def run(self, work: Callable[["Clients"], Awaitable[None]]) -> None:
        """Do `work` with clients of both ports, while the worker answers."""

        async def around() -> None:
            worker = web.Application()
            worker.router.add_post(CHAT, answer)
            async with TestServer(worker) as server, self.router:
                self.port = server.port
                async with _client(self.http_app) as http, _client(self.azure_app) as azure:
                    await work(Clients(http, azure))

        asyncio.run(around())


class Clients:
    """Clients of both ports with the endpoint's key."""

    def __init__(self, http: httpx.AsyncClient, azure: httpx.AsyncClient) -> None:
        self.http, self.azure = http, azure

    async def chat(self, said: str) -> httpx.Response:
        return await self.http.post(CHAT, json={"model": "chat", "messages": [{"role": "user", "content": said}]})

    async def score(self, *said: str) -> httpx.Response:
        conversations = [[{"role": "user", "content": text}] for text in said]
        body = {"input_data": {"input_string": conversations[0] if len(said) == 1 else conversations}}
        return await self.azure.post(SCORE, json=body)

    async def metrics(self) -> str:
        return (await self.http.get("/metrics", headers={"authorization": f"Bearer {OPERATOR_KEY}"})).text


def _client(app: FastAPI) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{HOST}", headers=headers)
