"""A worker answers every error in OpenAI's dialect with the error's status, and says how it is while it loads."""

import asyncio
from typing import Any

import httpx
import pytest

from mafunzo import errors
from mafunzo.compute.inference.http.answering import Disconnected
from mafunzo.compute.inference.http.app import make_app
from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.request_check import PROMPT
from mafunzo.errors import MafunzoError


def answer_to(method: str, path: str, error: Exception | None = None, **request: Any) -> httpx.Response:
    """What a client gets of a worker whose model is loading; `error` is raised by the route `/chat/broken`."""
    app = make_app(Service("m"))

    @app.get("/chat/broken")
    async def broken() -> None:
        assert error is not None
        raise error

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            return await client.request(method, path, **request)

    return asyncio.run(ask())


@pytest.mark.parametrize("cls", list(errors.family()), ids=lambda cls: cls.code)
def test_every_error_is_answered_with_its_status(cls: type[MafunzoError]) -> None:
    answer = answer_to("GET", "/chat/broken", cls("what"))
    assert (answer.status_code, answer.json()["error"]["message"]) == (cls.status, "what")


def test_the_part_that_is_at_fault_is_named_as_the_client_knows_it() -> None:
    answer = answer_to("GET", "/chat/broken", errors.InvalidParameter("too long", param=PROMPT))
    assert answer.json()["error"]["param"] == "messages"


def test_a_fault_of_ours_is_told_as_one() -> None:
    answer = answer_to("GET", "/chat/broken", KeyError("x"))
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert answer.json()["error"]["message"] == "The request failed: KeyError: 'x'"


def test_nobody_is_told_what_nobody_waits_for() -> None:
    assert answer_to("GET", "/chat/broken", Disconnected()).status_code == 499


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "/health", 503, id="health"),
        pytest.param("GET", "/info", 503, id="facts"),
        pytest.param("GET", "/v1/models", 503, id="models"),
        pytest.param("GET", "/metrics", 200, id="metrics are there at once"),
        pytest.param("GET", "/v1/embeddings", 404, id="unknown path"),
        pytest.param("GET", "/v1/completions", 405, id="another method"),
    ],
)
def test_a_worker_that_loads_answers(method: str, path: str, status: int) -> None:
    assert answer_to(method, path).status_code == status


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_a_body_that_is_no_json_is_refused(path: str) -> None:
    answer = answer_to("POST", path, content=b"{")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("The body isn't JSON: ")


def test_a_prompt_waits_for_the_model() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    answer = answer_to("POST", "/v1/chat/completions", json=body)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "'m' is loading. Try again in a few seconds."
