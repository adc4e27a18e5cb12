"""A worker's application over a tiny model, asked within the tests' process."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mafunzo.compute.inference.http.app import make_app
from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.loading import load_model

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Service]:
    service = Service("chat")
    service.model = load_model(tiny_llama, max_batch=4, device="cpu")
    yield service
    service.model.engine.close()


@pytest.fixture
def ask(service: Service) -> Ask:
    """Return a function that sends one request and returns the whole answer."""

    def send(method: str, path: str, **request: Any) -> httpx.Response:
        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(make_app(service), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
                return await client.request(method, path, **request)

        return asyncio.run(answer())

    return send
