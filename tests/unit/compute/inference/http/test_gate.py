"""Tests of `mafunzo.compute.inference.http.gate`: who may ask a worker."""

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse

from mafunzo.compute.inference.http.gate import Gate

OWN = {"authorization": "Bearer of-the-worker"}


def ask(headers: dict[str, str], token: str | None = "of-the-worker") -> httpx.Response:
    gate = Gate(PlainTextResponse("the model"), token)

    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(gate)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4711") as client:
            return await client.get("/health", headers=headers)

    return asyncio.run(work())


def test_the_server_that_has_the_token_may_ask() -> None:
    assert ask(OWN).text == "the model"
    assert ask({**OWN, "host": "LOCALHOST:4711"}).text == "the model"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "of-the-worker"}])
def test_another_user_of_the_machine_is_refused(headers: dict[str, str]) -> None:
    answer = ask(headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:4711", "evil.example:4711", ""])
def test_a_page_that_lets_its_name_resolve_to_this_machine_is_refused(host: str) -> None:
    assert ask({**OWN, "host": host}).status_code == 403
    assert ask({"host": host}, token=None).status_code == 403


def test_a_worker_that_is_run_by_hand_without_a_token_asks_for_none() -> None:
    assert ask({}, token=None).text == "the model"
