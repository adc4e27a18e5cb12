"""Every error is answered by every dialect with its own status."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from mafunzo import errors
from mafunzo.entrypoints.azure.wire import blob
from mafunzo.entrypoints.mlflow import registered_model as registry
from mafunzo.errors import MafunzoError
from tests.unit.entrypoints.http.bench import HOST, Bench, Clients


def openai_app() -> FastAPI:
    return Bench().http_app


def azure_app() -> FastAPI:
    return Bench().azure_app


def answer_to(app: FastAPI, error: MafunzoError) -> httpx.Response:
    """What a client gets where a route raises `error`."""

    async def broken() -> None:
        raise error

    async def ask() -> httpx.Response:
        app.add_api_route("/broken", broken)
        app.router.routes.insert(0, app.router.routes.pop())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{HOST}") as client:
            return await client.get("/broken")

    return asyncio.run(ask())


FAMILY = sorted(errors.family(), key=lambda cls: cls.code)


@pytest.mark.parametrize("make_app", [openai_app, azure_app])
@pytest.mark.parametrize("cls", FAMILY, ids=lambda cls: cls.code)
def test_both_ports_answer_every_error_with_its_status(
    make_app: Callable[[], FastAPI], cls: type[MafunzoError]
) -> None:
    answer = answer_to(make_app(), cls("what, where, what to do"))
    assert answer.status_code == cls.status
    assert answer.json()["error"]["message"] == "what, where, what to do"


@pytest.mark.parametrize("cls", FAMILY, ids=lambda cls: cls.code)
def test_mlflow_answers_every_error_with_its_status(cls: type[MafunzoError]) -> None:
    status, body = registry.error_body(cls("what"), is_creation=False)
    assert (status, body["message"]) == (cls.status, "what")


def test_mlflow_has_a_status_of_its_own_for_what_exists_already() -> None:
    status, body = registry.error_body(errors.Conflict("it exists"), is_creation=True)
    assert (status, body["error_code"]) == (400, "RESOURCE_ALREADY_EXISTS")


OF_STORAGE = {"unauthorized": 403, "blob_refused": 400}
"""Azure Storage has other statuses for these: no key or a wrong one is 403, and a refusal's follows from its reason."""


@pytest.mark.parametrize("cls", FAMILY, ids=lambda cls: cls.code)
def test_blob_storage_answers_every_error_with_its_status(cls: type[MafunzoError]) -> None:
    status, _ = blob.refusal(cls("what"))
    assert status == OF_STORAGE.get(cls.code, cls.status)


@pytest.mark.parametrize(
    ("cls", "headers"),
    [
        pytest.param(errors.Unavailable, {"retry-after": "1"}, id="later"),
        pytest.param(errors.RateLimitExceeded, {"retry-after": "1"}, id="not so fast"),
        pytest.param(errors.Unauthorized, {"www-authenticate": "Bearer"}, id="with a key"),
    ],
)
def test_the_http_port_says_how_a_request_may_succeed(cls: type[MafunzoError], headers: dict[str, Any]) -> None:
    answer = answer_to(openai_app(), cls("what"))
    assert {name: answer.headers.get(name) for name in headers} == headers


def test_only_refused_requests_for_metrics_are_audited() -> None:
    bench = Bench()

    async def work(clients: Clients) -> None:
        assert await clients.metrics()
        assert (await clients.http.get("/metrics")).status_code == 401, "an endpoint's key isn't the operator's"
        assert (await clients.http.get("/v1/models", headers={"authorization": "Bearer wrong"})).status_code == 401

    bench.run(work)
    assert [(entry.what, entry.status) for entry in bench.audited] == [("metrics", 401)]


def test_the_report_of_a_mirror_is_for_whoever_may_ask_its_endpoint() -> None:
    async def work(clients: Clients) -> None:
        report = (await clients.http.get("/endpoints/chat/mirror")).json()
        assert (report["mirror"], report["compared"], report["live_latency"]) == ("green", 7, None)
        wrong = {"authorization": "Bearer wrong"}
        assert (await clients.http.get("/endpoints/chat/mirror", headers=wrong)).status_code == 401
        assert (await clients.http.get("/endpoints/other/mirror")).status_code == 404

    Bench().run(work)
