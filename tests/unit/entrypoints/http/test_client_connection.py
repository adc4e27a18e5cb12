"""Work for a client ends with the client."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from mafunzo.control.serving.router import ClientGone
from mafunzo.entrypoints.http.client_connection import while_connected


def test_work_is_given_up_when_the_client_leaves() -> None:
    ends: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    async def around() -> None:
        with pytest.raises(ClientGone):
            await while_connected(Request({"type": "http"}, leave), work())
        await asyncio.sleep(0)

    asyncio.run(around())
    assert ends == ["cancelled"]


def test_the_result_or_the_error_of_the_work_comes_back() -> None:
    async def stay() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def work(number: int) -> float:
        return 1 / number

    async def around() -> None:
        assert await while_connected(Request({"type": "http"}, stay), work(2)) == 0.5
        with pytest.raises(ZeroDivisionError):
            await while_connected(Request({"type": "http"}, stay), work(0))

    asyncio.run(around())
