"""Tests of `mafunzo.entrypoints.http.cors`: which pages may read what endpoints answer."""

import asyncio

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mafunzo.entrypoints.http.cors import Cors, require_origins
from mafunzo.errors import InvalidParameter

PAGE = "https://chat.example.org"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(status_code=401, headers={"x-request-id": "7"})(scope, receive, send)


def ask(method: str, path: str, origins: list[str], origin: str = PAGE) -> httpx.Response:
    async def around() -> httpx.Response:
        transport = httpx.ASGITransport(Cors(answer, origins))
        headers = {"origin": origin}
        if method == "OPTIONS":
            headers |= {
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type, x-stainless-os",
            }
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(around())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/endpoints/chat/score"])
def test_a_page_that_is_listed_may_ask_endpoints_and_read_refusals(path: str) -> None:
    preflight = ask("OPTIONS", path, [PAGE])
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    assert "DELETE" in preflight.headers["access-control-allow-methods"], "a stored response is deleted by it"
    answered = ask("POST", path, [PAGE])
    assert (answered.status_code, answered.headers["access-control-allow-origin"]) == (401, PAGE)
    assert "x-request-id" in answered.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answered.headers


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        pytest.param("/v1/models", "https://evil.example", id="another page"),
        pytest.param("/v1/models", "http://chat.example.org", id="another scheme"),
        pytest.param("/mlflow/api", PAGE, id="another way in"),
        pytest.param("/metrics", PAGE, id="the operator's"),
    ],
)
def test_no_other_page_and_nothing_else_may_be_read(path: str, origin: str) -> None:
    assert "access-control-allow-origin" not in ask("GET", path, [PAGE], origin).headers
    assert "access-control-allow-origin" not in ask("OPTIONS", path, [PAGE], origin).headers


def test_a_star_is_every_page() -> None:
    assert ask("POST", "/v1/models", ["*"], "http://any.example").headers["access-control-allow-origin"] == "*"


def test_all_that_is_no_origin_is_told_at_once() -> None:
    require_origins(["*", PAGE, "http://localhost:3000", "https://[::1]:8443"])
    texts = ["chat.example.org", f"{PAGE}/", f"{PAGE}/x", "null", "https://*.org", "ftp://a.org"]
    with pytest.raises(InvalidParameter) as caught:
        require_origins([PAGE, *texts])
    assert [fault.split("'")[1] for fault in caught.value.faults] == texts
