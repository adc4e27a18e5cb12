"""Tests of `mafunzo.entrypoints.http.forwarding`: work ends with its client, and headers name a deployment."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from mafunzo.entities.endpoint import Deployment
from mafunzo.entrypoints.http.forwarding import deployment_headers, named_deployment, while_connected
from mafunzo.errors import ClientGone


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


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        pytest.param({}, None, id="none: the traffic decides"),
        pytest.param({"mafunzo-deployment": "blue"}, "blue", id="ours"),
        pytest.param({"azureml-model-deployment": "green"}, "green", id="Azure's"),
        pytest.param({"azureml-model-deployment": "green", "mafunzo-deployment": "blue"}, "blue", id="ours first"),
    ],
)
def test_a_request_names_a_deployment_by_a_header(headers: dict[str, str], name: str | None) -> None:
    assert named_deployment(headers) == name


def test_an_answer_names_its_deployment_by_both() -> None:
    assert deployment_headers(Deployment("chat", "blue", "m:1", "sha256:0")) == {
        "mafunzo-deployment": "blue",
        "azureml-model-deployment": "blue",
    }
